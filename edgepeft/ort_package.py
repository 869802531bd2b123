"""Which ONNX Runtime is installed, found out without importing it.

`onnxruntime` and `onnxruntime-training` install one module, `onnxruntime`, over each other.
"""

import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from edgepeft.errors import EngineError

#: Distributions that install the module, by whether training is in them.
_DISTRIBUTIONS = {
    "onnxruntime": False,
    "onnxruntime-gpu": False,
    "onnxruntime-training-cpu": True,
    "onnxruntime-training": True,
}
#: The oldest version that works, by whether training is in it; of that with training it is the last as well.
_OLDEST = {False: (1, 31), True: (1, 19)}
_TRAINING = "onnxruntime.training"


@dataclass(frozen=True)
class Package:
    """An installed ONNX Runtime.

    Attributes:
        name: Its distribution, as pip knows it.
        version: Its version.
        trains: Whether it has the on-device training API.
    """

    name: str
    version: str
    trains: bool


def installed() -> Package:
    """The ONNX Runtime that is installed.

    Raises:
        EngineError: None is, or two that overwrite each other, or one that is too old or not whole.
    """
    found = []
    for name, trains in _DISTRIBUTIONS.items():
        try:
            found.append(Package(name, metadata.version(name), trains))
        except metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        both = " and ".join(package.name for package in found)
        raise EngineError(f"{both} overwrite each other. Uninstall both, then install one again.")
    if not found:
        raise EngineError(
            "no ONNX Runtime is installed. Install edgepeft[onnxruntime] or edgepeft[ort-training]."
        )
    (package,) = found
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise EngineError(
            f"{package.name} is installed, but its files are not there, as after another ONNX Runtime was uninstalled. "
            f"Install it again: pip install --force-reinstall --no-deps {package.name}=={package.version}."
        )
    oldest = _OLDEST[package.trains]
    if tuple(int(part) for part in re.findall(r"\d+", package.version)[:2]) < oldest:
        raise EngineError(
            f"{package.name} {package.version} is installed, expected {'.'.join(map(str, oldest))} or later. "
            f"Update it: pip install --upgrade {package.name}."
        )
    return package


def keep_torch_out() -> None:
    """Has `onnxruntime.training` imported without what its own beginning imports: torch, which a device lacks."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        training = Path(folder) / "training"
        if (training / "api").is_dir() and _TRAINING not in sys.modules:
            module = ModuleType(_TRAINING)
            module.__path__ = [str(training)]
            sys.modules[_TRAINING] = module
