"""Which ONNX Runtime is installed, found out without importing it."""

import subprocess
import sys
from importlib import metadata

import pytest

from edgepeft import ort_package
from edgepeft.errors import EngineError


def install(monkeypatch: pytest.MonkeyPatch, **packages: str) -> None:
    """Has pip know these packages only."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name.replace("-", "_")]

    monkeypatch.setattr(ort_package.metadata, "version", version)


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ({"onnxruntime": "1.31.1"}, ("onnxruntime", "1.31.1", False)),
        ({"onnxruntime_training_cpu": "1.19.2"}, ("onnxruntime-training-cpu", "1.19.2", True)),
        ({"onnxruntime_training": "1.19.2"}, ("onnxruntime-training", "1.19.2", True)),
        ({"onnxruntime_gpu": "1.31.0"}, ("onnxruntime-gpu", "1.31.0", False)),
    ],
)
def test_the_package_by_its_distribution(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], expected: tuple[str, str, bool]
) -> None:
    """Both install the same module: only pip knows which one it is."""
    install(monkeypatch, **packages)
    found = ort_package.installed()
    assert (found.name, found.version, found.trains) == expected


@pytest.mark.parametrize(
    ("packages", "words"),
    [
        (
            {"onnxruntime": "1.18.0"},
            r"onnxruntime 1\.18\.0 is installed, expected 1\.31 or later\. Update it",
        ),
        ({"onnxruntime_training": "1.17.1"}, r"1\.17\.1 is installed, expected 1\.19 or later"),
        ({}, r"no ONNX Runtime is installed\. Install edgepeft\[onnxruntime\]"),
        (
            {"onnxruntime": "1.31.1", "onnxruntime_training_cpu": "1.19.2"},
            "onnxruntime and onnxruntime-training-cpu overwrite each other",
        ),
    ],
)
def test_none_two_and_an_old_one_are_refused(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], words: str
) -> None:
    """Neither can be used, and the message says what to do."""
    install(monkeypatch, **packages)
    with pytest.raises(EngineError, match=words):
        ort_package.installed()


def test_a_package_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were installed, one was uninstalled, and took what they shared with it."""
    install(monkeypatch, onnxruntime="1.31.1")
    monkeypatch.setattr(ort_package.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"its files are not there.*--no-deps onnxruntime==1\.31\.1"):
        ort_package.installed()


def test_the_module_is_the_packages() -> None:
    """What pip says is what Python imports."""
    code = "import edgepeft, onnxruntime; print(onnxruntime.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ort_package.installed().version
