"""The sample of a home assistant, in a short form: its real data on a small model with random weights."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from remote_engine import PYTHON

import edgepeft
from tools import demo

STEPS = 16


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (demo.DATA / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def output(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demonstration writes."""
    folder = tmp_path_factory.mktemp("sample") / "demo"
    demo.adapt(bundles / "tiny-llama", folder, max_steps=STEPS, learning_rate=0.02, batch_size=8)
    return folder


@pytest.fixture(scope="module")
def figures(output: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((output / "result.json").read_text())
    return figures


def test_the_figures_are_those_of_the_run(figures: dict[str, Any]) -> None:
    """Every kind of question was asked before and after, and the model learned of the facts."""
    losses = figures["held_out_losses"]
    assert figures["steps"] == STEPS
    assert [step for step, _ in losses] == [0, 13, STEPS]
    assert losses[-1][1] < losses[0][1] - 0.1
    assert all(figures[name] > 0 for name in ("seconds_per_step", "tokens_per_second", "peak_memory_mb"))
    assert {kind for scores in figures["scores"].values() for kind in scores} == {
        "taught",
        "reworded",
        "unrelated",
    }


@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no Python; make test does")
def test_the_other_engine_learns_the_same(bundles: Path, tmp_path: Path, figures: dict[str, Any]) -> None:
    """The sample as it is, with onnxruntime-training: the same held-out losses."""
    program = (
        "import sys; from pathlib import Path; from tools import demo; "
        f"demo.adapt(*map(Path, sys.argv[1:]), max_steps={STEPS}, learning_rate=0.02, batch_size=8)"
    )
    command = [os.environ[PYTHON], "-c", program, bundles / "tiny-llama", tmp_path / "demo"]
    root = str(Path(__file__).parents[2])
    subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, check=True, capture_output=True)
    got = json.loads((tmp_path / "demo" / "result.json").read_text())["held_out_losses"]
    assert [loss for _, loss in got] == pytest.approx(
        [loss for _, loss in figures["held_out_losses"]], abs=1e-3
    )


def test_the_adapter_goes_back_into_the_bundle(output: Path, bundles: Path, figures: dict[str, Any]) -> None:
    """As another program would load it; it gives the loss that was measured."""
    adapter = edgepeft.Adapter.load(output / "adapter")
    model = edgepeft.load(bundles / "tiny-llama", adapter)
    assert adapter.base_id == model.bundle.manifest.base_id
    assert adapter.size == figures["adapter_bytes"]
    loss = model.evaluate(demo.DATA / "heldout.jsonl")["loss"]
    assert loss == pytest.approx(figures["held_out_losses"][-1][1], rel=1e-4)


def test_the_pictures_can_be_opened(output: Path) -> None:
    """The curves are SVG that parses; the report names the data and shows its prompts."""
    root = ET.fromstring((output / "losses.svg").read_text())  # noqa: S314 - it is ours
    assert root.tag.endswith("svg")
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    report = (output / "report.html").read_text()
    assert "facts.jsonl" in report
    assert "heldout.jsonl" in report
    assert sum(row["prompt"] in report for row in rows("heldout.jsonl")) >= 5


def test_the_end_says_what_to_open(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person who watched the run knows where its pictures are."""
    result = edgepeft.TrainingResult(
        adapter=edgepeft.Adapter.load(output / "adapter"),
        losses=[1.0],
        evaluation_losses=[(0, 2.0), (1, 1.0)],
        steps=1,
        seconds=1.0,
        samples_per_second=1.0,
        tokens_per_second=1.0,
        peak_memory_bytes=1,
        stop_reason="finished",
        truncated_rows=0,
        rows_at_once=1,
        adapter_step=1,
    )
    demo.report(result, [], [], [], output)
    told = capsys.readouterr().out
    for name in ("report.html", "losses.svg", "result.json", "adapter"):
        assert str(output / name) in told
        assert (output / name).exists()


def test_questions_are_asked_of_what_they_say() -> None:
    """Taught wordings are in the training rows, reworded ones are not, and answers hold the keyword."""
    facts, held_out = rows("facts.jsonl"), rows("heldout.jsonl")
    known = {row["prompt"]: row["completion"] for row in facts}
    new = {row["prompt"]: row["completion"] for row in held_out}
    assert not known.keys() & new.keys(), "a held-out wording is trained on"
    assert set(new.values()) <= set(known.values()), "a held-out question is about what is not taught"
    for question in rows("questions.jsonl"):
        source = {"taught": known, "reworded": new}.get(question["kind"])
        if source is None:
            assert question["prompt"] not in known | new
        else:
            assert demo.right(source[question["prompt"]], question["keyword"])


@pytest.mark.parametrize(
    ("answer", "keyword", "right"),
    [
        ("Pickles is our cat.", "Pickles", True),
        ("It is 4471.", "4471", True),
        ("It is 14471.", "4471", False),
        ("There are seven days.", "7|seven", True),
        ("There are 17 days.", "7|seven", False),
        ("", "7", False),
    ],
)
def test_an_answer_is_right_if_it_holds_the_word(answer: str, keyword: str, right: bool) -> None:  # noqa: FBT001
    """Part of a longer number or word does not count."""
    assert demo.right(answer, keyword) is right
