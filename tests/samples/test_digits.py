"""The sample of a sensor's digits, in a short form: the net, the export and one adaptation."""

import shutil
from pathlib import Path

import pytest
import torch
from other_engine import needs_both, on_other_engine

import edgepeft
from samples.digits import device, workstation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workstation's step writes."""
    folder = tmp_path_factory.mktemp("sample") / "digits"
    threads = torch.get_num_threads()
    try:
        workstation.main(folder)
    finally:
        torch.set_num_threads(threads)  # the sample trains on one
    return folder


def test_corrections_win_back_what_the_worn_sensor_took(folder: Path) -> None:
    """One run, of the five: more than a third of the loss is won back, and clean digits are read as before."""
    model = edgepeft.load(folder / "bundle")
    before = device.accuracies(model, folder / "data")
    result = device.adapt(model, folder / "data", seed=0)
    figures = device.measure(before, device.accuracies(model, folder / "data"))
    assert before["clean"] > 96
    assert before["disturbed"] < 60, "the sensor is not worn enough to show anything"
    assert figures["share won back"] > 35
    assert figures["clean after"] > before["clean"] - 4
    assert result.adapter.size < 20_000


#: One adaptation and its figures.
ADAPT = """
import edgepeft
from samples.digits import device

(data,) = arguments
model = edgepeft.load(bundle)
before = device.accuracies(model, data)
device.adapt(model, data, seed=0)
print(json.dumps({"engine": model.engine.name} | device.measure(before, device.accuracies(model, data))))
"""


@needs_both
def test_the_other_engine_gives_the_same_figures(folder: Path, tmp_path: Path) -> None:
    """The sample as it is, with onnxruntime-training: the same run to float32's rounding."""
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    figures = on_other_engine(bundle, ADAPT, folder / "data")
    assert figures.pop("engine") == "ort-training"
    model = edgepeft.load(folder / "bundle")
    before = device.accuracies(model, folder / "data")
    device.adapt(model, folder / "data", seed=0)
    expected = device.measure(before, device.accuracies(model, folder / "data"))
    assert figures == pytest.approx(
        expected, abs=2
    )  # per cent: an image at the border may fall to either side


def test_what_is_there_is_not_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call leaves the folder as it is."""
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    workstation.main(folder)
    assert "there already" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_parts_share_no_digit() -> None:
    """No image of one part is in another: what is measured was not trained on."""
    parts = workstation.load_parts()
    seen = [image.tobytes() for images, _ in parts.values() for image in images]
    assert len(seen) == 1797
    assert len(set(seen)) == len(seen)
