"""The sample of a user's own categories of texts, in a short form: the export and a few steps; and its data."""

from collections import Counter
from pathlib import Path

import pytest
from other_engine import needs_both, on_other_engine

import edgepeft
from samples.text_categories import device, workstation

FILES = ("examples", "held_out", "tuning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workstation's step writes."""
    folder = tmp_path_factory.mktemp("sample") / "bundle"
    workstation.export(folder, check=False)
    return folder


def test_categories_are_learned_that_the_base_does_not_group_by(bundle: Path) -> None:
    """On a quarter of the held-out texts, half as many steps give more than the frozen base's centroids do."""
    model = edgepeft.load(bundle)
    examples, held_out = device.shots(device.load_rows("examples"), 3), device.load_rows("held_out")[::4]
    figures = device.measure(model, examples, held_out, seed=3, epochs=12)
    assert figures["gain"] > 3
    assert model.labels == tuple(sorted({row["label"] for row in examples}))


#: A few steps, their losses, and the likeliest categories of some texts.
LEARN = """
import edgepeft
from samples.text_categories import device

model = edgepeft.load(bundle)
result = device.adapt(model, device.shots(device.load_rows("examples"), 0), 0, epochs=1)
texts = [row["text"] for row in device.load_rows("held_out")[:20]]
print(json.dumps([model.engine.name, result.losses, [found.label for found in model.classify(texts)]]))
"""


@needs_both
def test_the_other_engine_learns_the_same(bundle: Path) -> None:
    """The sample as it is, with onnxruntime-training: the same losses, and the same answers."""
    name, losses, labels = on_other_engine(bundle, LEARN)
    assert name == "ort-training"
    model = edgepeft.load(bundle)
    result = device.adapt(model, device.shots(device.load_rows("examples"), 0), 0, epochs=1)
    assert losses == pytest.approx(result.losses, abs=1e-4)
    texts = [row["text"] for row in device.load_rows("held_out")[:20]]
    expected = [found.label for found in model.classify(texts)]
    assert sum(one == other for one, other in zip(labels, expected, strict=True)) >= 19


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
