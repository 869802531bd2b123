"""The sample of a user's own categories of texts, in a short form: the export and a few steps; and its data."""

from collections import Counter
from pathlib import Path

import pytest

import edgepeft
from samples.text_categories import device, workstation

FILES = ("examples", "held_out", "tuning")


def test_categories_are_learned_that_the_base_does_not_group_by(tmp_path: Path) -> None:
    """On a quarter of the held-out texts, half as many steps give more than the frozen base's centroids do."""
    workstation.export(tmp_path / "bundle", check=False)
    model = edgepeft.load(tmp_path / "bundle")
    examples, held_out = device.shots(device.load_rows("examples"), 3), device.load_rows("held_out")[::4]
    figures = device.measure(model, examples, held_out, seed=3, epochs=12)
    assert figures["gain"] > 3
    assert model.labels == tuple(sorted({row["label"] for row in examples}))


@pytest.mark.parametrize("name", FILES)
def test_every_category_has_as_many_texts(name: str) -> None:
    """No category is more frequent than another, so that accuracy says what it seems to."""
    counts = Counter(row["label"] for row in device.load_rows(name))
    assert len(counts) == 7
    assert len(set(counts.values())) == 1


def test_no_text_is_in_two_files() -> None:
    """What is measured was neither trained on nor used to choose the settings."""
    texts = [row["text"] for name in FILES for row in device.load_rows(name)]
    assert len(set(texts)) == len(texts)


def test_seeds_share_no_example() -> None:
    """Five seeds learn from five times eight different examples a category."""
    rows = device.load_rows("examples")
    texts = [row["text"] for seed in range(5) for row in device.shots(rows, seed)]
    assert len(set(texts)) == len(texts) == 5 * 8 * 7


def test_the_packages_of_all_texts_are_told() -> None:
    """packages.tsv names the package of each line of each file, for who wants to ask its authors."""
    lines = (device.DATA / "packages.tsv").read_text().splitlines()[1:]
    told = Counter(line.split("\t")[0] for line in lines)
    assert told == {f"{name}.jsonl": len(device.load_rows(name)) for name in FILES}
