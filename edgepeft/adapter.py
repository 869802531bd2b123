"""Adapters: a few small tensors, kept in the folder format of HF PEFT."""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import limits, names, store, tensors
from edgepeft.errors import AdapterError
from edgepeft.manifest import Manifest
from edgepeft.tensors import Array

#: Key in the safetensors metadata that binds an adapter to its base; PEFT ignores it and wants "format".
_BASE_ID = "edgepeft.base_id"
_FORMAT = {"format": "pt"}

#: Configuration fields of PEFT that change what the tensors mean.
_MEANINGFUL = (
    "peft_type",
    "r",
    "lora_alpha",
    "alpha",
    "use_rslora",
    "use_dora",
    "target_modules",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "bias",
    "feedforward_modules",
    "num_virtual_tokens",
)


@dataclass(frozen=True)
class Adapter:
    """An adapter: tensors by PEFT's names, PEFT's configuration, and the base it was made for.

    Attributes:
        tensors: float32 arrays by name, as in `adapter_model.safetensors`.
        config: What `adapter_config.json` holds.
        base_id: The base's id, or `None` for an adapter that was made elsewhere.
    """

    tensors: Mapping[str, Array]
    config: Mapping[str, Any]
    base_id: str | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Adapter":
        """Reads an adapter's folder, as HF PEFT or `save` wrote it; other files in it are ignored.

        Raises:
            AdapterError: A file is missing, malformed or too large; the message says which and why.
        """
        folder = Path(path)
        config = store.read_once(folder / names.ADAPTER_CONFIG, limits.MAX_CONFIG_BYTES, AdapterError)
        model = store.read_once(folder / names.ADAPTER_MODEL, limits.MAX_ADAPTER_BYTES, AdapterError)
        return read_adapter(config, model, str(folder))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the folder that `peft.PeftModel.from_pretrained` opens, durably and at once.

        Raises:
            StorageError: The disk refused, or the folder exists and is not an adapter's.
        """
        metadata = _FORMAT | ({_BASE_ID: self.base_id} if self.base_id else {})
        config = json.dumps(dict(self.config), indent=2, sort_keys=True) + "\n"
        files: dict[str, bytes | memoryview] = {
            names.ADAPTER_CONFIG: config.encode(),
            names.ADAPTER_MODEL: tensors.serialize(self.tensors, metadata),
        }
        store.write_folder(Path(path), files, replaceable=_holds_an_adapter_only)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(value.nbytes for value in self.tensors.values())


def _holds_an_adapter_only(folder: Path) -> bool:
    known = {names.ADAPTER_CONFIG, names.ADAPTER_MODEL}
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= known


def read_adapter(config: memoryview, model: memoryview, where: str) -> Adapter:
    """Reads an adapter from its two files' contents.

    Raises:
        AdapterError: One of them is malformed.
    """
    try:
        settings = json.loads(bytes(config).decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise AdapterError(f"{where}/{names.ADAPTER_CONFIG}: not valid JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"{where}/{names.ADAPTER_CONFIG}: expected a JSON object.")
    arrays, metadata = tensors.parse_checked(model, f"{where}/{names.ADAPTER_MODEL}", AdapterError)
    return Adapter(arrays, settings, metadata.get(_BASE_ID))


def check_fits(adapter: Adapter, manifest: Manifest, initial: Adapter) -> None:
    """Checks that an adapter is made for a bundle.

    Args:
        adapter: The adapter.
        manifest: The bundle's manifest.
        initial: The bundle's own adapter.

    Raises:
        AdapterError: Another base, method or setting; a tensor missing, extra, of another dtype or shape, or
            with a value that is not finite or absurdly large.
    """
    if adapter.base_id is not None and adapter.base_id != manifest.base_id:
        raise AdapterError(
            f"the adapter was made for base {adapter.base_id[:12]}, this bundle is {manifest.base_id[:12]}. "
            "Use it with the bundle it was trained on."
        )
    _check_config(adapter.config, initial.config)
    expected = {tensor.name: tensor for tensor in manifest.adapter.tensors}
    for name in adapter.tensors:
        if name not in expected:
            near = difflib.get_close_matches(name, expected, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise AdapterError(f"the bundle knows no adapter tensor {name!r}.{hint}")
    for name, tensor in expected.items():
        if name not in adapter.tensors:
            raise AdapterError(f"the adapter lacks the tensor {name!r}. Save it again with all its layers.")
        _check_tensor(name, adapter.tensors[name], tuple(tensor.shape))


def _check_config(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for field in _MEANINGFUL:
        if field not in given or field not in expected:
            continue
        got, want = (_comparable(config[field]) for config in (given, expected))
        if got != want:
            raise AdapterError(
                f"the adapter's {field} is {given[field]!r}, the bundle was exported with {expected[field]!r}. "
                "Export a bundle with the adapter's settings, or train the adapter on this one."
            )


def _comparable(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list) else value


def _check_tensor(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.dtype != np.float32:
        raise AdapterError(f"tensor {name!r} is {value.dtype}, expected float32. Save the adapter in float32.")
    if value.shape != shape:
        hint = " It is transposed." if value.ndim > 1 and value.shape == shape[::-1] else ""
        raise AdapterError(f"tensor {name!r} has shape {value.shape}, expected {shape}.{hint}")
    if not np.isfinite(value).all():
        raise AdapterError(f"tensor {name!r} holds NaN or infinity. The training that made it went wrong.")
    largest = float(np.abs(value).max(initial=0.0))
    if largest > limits.MAX_ADAPTER_MAGNITUDE:
        raise AdapterError(
            f"tensor {name!r} holds {largest:.3g}, more than {limits.MAX_ADAPTER_MAGNITUDE:g}. "
            "The training that made it diverged."
        )
