"""Which engine runs a bundle: that of the ONNX Runtime package which is installed, if the bundle is made for it."""

from dataclasses import dataclass

from edgepeft import ort_package
from edgepeft.bundle import Bundle
from edgepeft.engines.base import Engine
from edgepeft.engines.ort_training import OrtTrainingEngine
from edgepeft.engines.stock import StockEngine
from edgepeft.errors import ArgumentError, EngineError
from edgepeft.manifest import Manifest

AUTO = "auto"
STOCK = StockEngine.name
ORT_TRAINING = OrtTrainingEngine.name


@dataclass(frozen=True)
class Choice:
    """An engine and why it is the one."""

    engine: str
    why: str


def engines_of(manifest: Manifest) -> list[str]:
    """The engines that a bundle is made for."""
    return [STOCK] if manifest.ort_training is None else [STOCK, ORT_TRAINING]


def choose(manifest: Manifest, engine: str = AUTO) -> Choice:
    """The engine to run a bundle with.

    Args:
        manifest: The bundle's.
        engine: "auto", or the one wanted.

    Raises:
        ArgumentError: No such engine.
        EngineError: Another package is installed than the engine needs, or the bundle lacks what it takes.
    """
    if engine not in (AUTO, STOCK, ORT_TRAINING):
        raise ArgumentError(f"unknown engine {engine!r}; expected {AUTO!r}, {STOCK!r} or {ORT_TRAINING!r}.")
    package = ort_package.installed()
    runs = ORT_TRAINING if package.trains else STOCK
    if engine not in (AUTO, runs):
        raise EngineError(
            f"engine {engine!r} cannot run: {package.name} {package.version} is installed. Install "
            f"edgepeft[{'onnxruntime' if engine == STOCK else ORT_TRAINING}] in an environment of its own."
        )
    if runs not in engines_of(manifest):
        raise EngineError(
            f"{package.name} {package.version} is installed, and the bundle has nothing for engine {runs!r}. Add it "
            f"on the workstation: edgepeft-export ort-training; or install edgepeft[onnxruntime] instead."
        )
    return Choice(runs, f"{package.name} {package.version} is installed")


def open_engine(bundle: Bundle, engine: str, threads: int | None) -> Engine:
    """The engine, on a bundle.

    Raises:
        ArgumentError: No such engine.
        EngineError: It cannot run here.
    """
    if choose(bundle.manifest, engine).engine == STOCK:
        return StockEngine(bundle, threads)
    assert bundle.manifest.ort_training is not None
    return OrtTrainingEngine(bundle, bundle.manifest.ort_training, threads)
