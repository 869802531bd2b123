"""Which engine runs a bundle, by what is installed and what the bundle has."""

from pathlib import Path

import msgspec
import pytest

import edgepeft
from edgepeft import ort_package
from edgepeft.engines import choice
from edgepeft.errors import ArgumentError, EngineError
from edgepeft.manifest import Manifest
from edgepeft.ort_package import Package

STOCK = Package("onnxruntime", "1.31.1", trains=False)
TRAINING = Package("onnxruntime-training-cpu", "1.19.2", trains=True)


@pytest.fixture
def manifest(bundles: Path) -> Manifest:
    """Of a bundle that has both engines' files."""
    found = edgepeft.Bundle.open(bundles / "conv-net").manifest
    assert choice.engines_of(found) == ["stock", "ort-training"]
    return found


@pytest.mark.parametrize(
    ("package", "engine", "chosen"),
    [
        (STOCK, "auto", "stock"),
        (STOCK, "stock", "stock"),
        (TRAINING, "auto", "ort-training"),
        (TRAINING, "ort-training", "ort-training"),
    ],
)
def test_the_installed_package_decides(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest, package: Package, engine: str, chosen: str
) -> None:
    """Only one can be installed."""
    monkeypatch.setattr(ort_package, "installed", lambda: package)
    found = choice.choose(manifest, engine)
    assert found == choice.Choice(chosen, f"{package.name} {package.version} is installed")


@pytest.mark.parametrize(
    ("package", "engine", "words"),
    [
        (STOCK, "ort-training", r"onnxruntime 1\.31\.1 is installed\. Install edgepeft\[ort-training\]"),
        (
            TRAINING,
            "stock",
            r"onnxruntime-training-cpu 1\.19\.2 is installed\. Install edgepeft\[onnxruntime\]",
        ),
    ],
)
def test_an_engine_whose_package_is_not_there(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest, package: Package, engine: str, words: str
) -> None:
    """The message says which is there, and what to install."""
    monkeypatch.setattr(ort_package, "installed", lambda: package)
    with pytest.raises(EngineError, match=words):
        choice.choose(manifest, engine)


def test_a_bundle_for_the_other_engine_only(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    """onnxruntime-training cannot run a bundle that was not prepared for it; the message says how to."""
    monkeypatch.setattr(ort_package, "installed", lambda: TRAINING)
    bare = msgspec.structs.replace(manifest, ort_training=None)
    with pytest.raises(EngineError, match=r"nothing for engine 'ort-training'\. Add it on the workstation"):
        choice.choose(bare)


def test_an_unknown_engine(bundles: Path) -> None:
    """Is an argument that nobody knows."""
    with pytest.raises(
        ArgumentError, match="unknown engine 'torch'; expected 'auto', 'stock' or 'ort-training'"
    ):
        edgepeft.load(bundles / "conv-net", engine="torch")  # type: ignore[arg-type]
