"""Adapters: a few small tensors, kept in the folder format of HF PEFT."""

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import labels as label_names
from edgepeft import limits, names, store, strict_json, tensors
from edgepeft.errors import AdapterError, ArgumentError
from edgepeft.manifest import Manifest
from edgepeft.tensors import Array

#: Keys in the safetensors metadata that bind an adapter to its base and name its classes; PEFT ignores them and
#: wants "format".
_BASE_ID = "edgepeft.base_id"
_LABELS = "edgepeft.labels"
_FORMAT = {"format": "pt"}
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Configuration fields of PEFT, of any of its methods, that change what the tensors mean. Left out on purpose:
#: how tensors were initialized, dropout and schedules of a training that is over, where a model came from.
_MEANINGFUL = (
    "peft_type",
    # which modules are adapted
    "target_modules",
    "target_parameters",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "feedforward_modules",
    "modules_to_save",
    "token_indices",
    "trainable_token_indices",
    "adapter_layers",
    "bias",
    # size and scale
    "r",
    "rank_pattern",
    "lora_alpha",
    "alpha",
    "alpha_pattern",
    "randlora_alpha",
    "scaling",
    "use_rslora",
    # the formula
    "use_dora",
    "use_qalora",
    "qalora_group_size",
    "lora_bias",
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "use_effective_conv2d",
    "decompose_both",
    "decompose_factor",
    "oft_block_size",
    "block_share",
    "coft",
    "eps",
    "use_cayley_neumann",
    "num_cayley_neumann_terms",
    "block_size",
    "block_size_pattern",
    "group_size",
    "variant",
    "mini_r",
    "n_frequency",
    "n_frequency_pattern",
    # prompts
    "num_virtual_tokens",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "token_dim",
    "prefix_projection",
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "adapter_len",
    # random projections that are drawn again from a seed
    "projection_prng_key",
    "random_loc_seed",
    "sparse",
    "very_sparse",
)

#: Of these, lists whose order says nothing; PEFT writes most of them from sets.
_SETS = {"target_modules", "feedforward_modules", "modules_to_save", "layers_to_transform"}

#: Values other than null, False and empty that change nothing; adapters of an older PEFT lack some of these fields.
_NEUTRAL = {"bias": "none", "qalora_group_size": 16}


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter: tensors by PEFT's names, PEFT's configuration, and the base it was made for.

    Attributes:
        tensors: float32 arrays by name, as in `adapter_model.safetensors`.
        config: What `adapter_config.json` holds.
        base_id: The base's id, or `None` for an adapter that was made elsewhere.
        labels: Names of the classes that it was trained on, in order, or `None` for the bundle's own.
    """

    tensors: Mapping[str, Array]
    config: Mapping[str, Any]
    base_id: str | None = None
    labels: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """The method and the size: the tensors are too long to read."""
        method = self.config.get("peft_type") or "own tensors"
        return f"<Adapter {method}: {len(self.tensors)} tensors, {self.size:,} bytes>"

    def with_labels(self, labels: Sequence[str]) -> "Adapter":
        """The same adapter for classes of one's own, each named once; the bundle's further classes never win.

        Raises:
            ArgumentError: They are no list of different names.
        """
        fault = label_names.fault(labels)
        if fault is not None:
            raise ArgumentError(f"labels: {fault}.")
        return dataclasses.replace(self, labels=tuple(labels))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Adapter":
        """Reads an adapter's folder, as HF PEFT or `save` wrote it; other files in it are ignored.

        Raises:
            ArgumentError: `path` is no path.
            AdapterError: A file is missing, malformed or too large; the message says which and why.
        """
        folder = store.folder_path("adapter", path)
        with store.FolderReader(folder, AdapterError) as reader:
            _check_is_adapter(reader)
            config = reader.read(names.ADAPTER_CONFIG, limits.MAX_CONFIG_BYTES)
            model = reader.read(names.ADAPTER_MODEL, limits.MAX_ADAPTER_BYTES)
        return read_adapter(config, model, str(folder))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the folder that `peft.PeftModel.from_pretrained` opens, durably and at once.

        An adapter's folder of the same name is replaced; one that holds anything else is not.

        Raises:
            AdapterError: The configuration holds something that JSON cannot.
            StorageError: The disk refused, or the folder exists and is not an adapter's; nothing was changed.
        """
        metadata = _FORMAT | ({_BASE_ID: self.base_id} if self.base_id else {})
        if self.labels is not None:
            metadata |= {_LABELS: json.dumps(self.labels, ensure_ascii=False)}
        try:
            config = json.dumps(dict(self.config), indent=2, sort_keys=True, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise AdapterError(
                f"{path}: {names.ADAPTER_CONFIG} can hold text, numbers, lists and mappings only: {error}."
            ) from error
        files: dict[str, bytes | memoryview] = {
            names.ADAPTER_CONFIG: config.encode(),
            names.ADAPTER_MODEL: tensors.serialize(self.tensors, metadata),
        }
        store.write_folder(Path(path), files, replaceable=holds_an_adapter_only)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(value.nbytes for value in self.tensors.values())


def _check_is_adapter(reader: store.FolderReader) -> None:
    """The usual mistakes; of an adapter that lacks a file, that file is told by who reads it."""
    if reader.has(names.ADAPTER_CONFIG) or reader.has(names.ADAPTER_MODEL):
        return
    if reader.has(names.MANIFEST):
        raise AdapterError(
            f"{reader.path}: is a bundle, not an adapter. Without an adapter the bundle's own is used."
        )
    if reader.has("config.json"):
        raise AdapterError(
            f"{reader.path}: is a model of Hugging Face, not an adapter. Export it: edgepeft-export hf."
        )
    raise AdapterError(
        f"{reader.path}: is no adapter's folder: it has neither {names.ADAPTER_CONFIG} nor {names.ADAPTER_MODEL}. "
        "Give the folder that train, or HF PEFT, wrote."
    )


def holds_an_adapter_only(folder: Path) -> bool:
    """Whether a folder may be given up for a new adapter: it has regular files of an adapter's names, or none."""
    known = {names.ADAPTER_CONFIG, names.ADAPTER_MODEL}
    return folder.is_dir() and all(
        entry.name in known and entry.is_file() and not entry.is_symlink() for entry in folder.iterdir()
    )


def read_adapter(config: memoryview, model: memoryview, where: str) -> Adapter:
    """Reads an adapter from its two files' contents.

    Args:
        config: `adapter_config.json`.
        model: `adapter_model.safetensors`.
        where: The folder, for messages.

    Raises:
        AdapterError: One of them is malformed.
    """
    settings = strict_json.decode(config, f"{where}/{names.ADAPTER_CONFIG}", AdapterError)
    arrays, metadata = tensors.parse_checked(model, f"{where}/{names.ADAPTER_MODEL}", AdapterError)
    base_id = metadata.get(_BASE_ID)
    if base_id is not None and not _SHA256.fullmatch(base_id):
        raise AdapterError(
            f"{where}/{names.ADAPTER_MODEL}: its {_BASE_ID} is {base_id[:80]!r}, expected 64 hexadecimal digits. "
            "Save the adapter again."
        )
    labels = _read_labels(metadata.get(_LABELS), f"{where}/{names.ADAPTER_MODEL}")
    return Adapter(arrays, settings, base_id, labels)


def _read_labels(text: str | None, where: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where}: its {_LABELS} is broken JSON: {error}. Save it again.") from error
    fault = label_names.fault(labels)
    if fault is not None:
        raise AdapterError(f"{where}: its {_LABELS}: {fault}. Save the adapter again.")
    return tuple(labels)


def check_fits(adapter: Adapter, manifest: Manifest, initial: Adapter) -> None:
    """Checks that an adapter is made for a bundle.

    Args:
        adapter: The adapter.
        manifest: The bundle's manifest.
        initial: The bundle's own adapter.

    Raises:
        AdapterError: Another base, method or setting; names for more classes than there are; a tensor missing,
            extra, of another dtype or shape, or with a value that is not finite or absurdly large.
    """
    if adapter.base_id is not None and adapter.base_id != manifest.base_id:
        raise AdapterError(
            f"the adapter was made for base {adapter.base_id[:12]!r}, this bundle is {manifest.base_id[:12]!r}. "
            "Use it with the bundle it was trained on."
        )
    _check_labels(adapter.labels, manifest)
    _check_config(adapter.config, initial.config)
    expected = manifest.adapter_shapes
    _check_names(list(adapter.tensors), list(expected))
    for name, shape in expected.items():
        _check_form(name, adapter.tensors[name], shape)
    check_values(adapter.tensors)


def _check_labels(labels: tuple[str, ...] | None, manifest: Manifest) -> None:
    if labels is None:
        return
    fault = label_names.fault(labels)
    if fault is not None:
        raise AdapterError(f"the adapter's labels: {fault}. Make it again with_labels.")
    if manifest.classes is None:
        raise AdapterError("the adapter names classes, but this bundle's model is no classifier.")
    if len(labels) > manifest.classes:
        raise AdapterError(
            f"the adapter names {len(labels)} classes, the model has room for {manifest.classes}. Name fewer, or "
            "export a bundle with more."
        )


def _check_config(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for field in filter(changes_meaning, differing_settings(given, expected)):
        if field not in given:
            raise AdapterError(
                f"the adapter's {names.ADAPTER_CONFIG} lacks {field}; the bundle was exported with "
                f"{str(expected[field])[:200]!r}. Save the adapter with its whole configuration."
            )
        raise AdapterError(
            f"the adapter's {field} is {str(given[field])[:200]!r}, the bundle was exported with "
            f"{str(expected.get(field))[:200]!r}. Export a bundle with the adapter's settings, or train the "
            "adapter on this one."
        )


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields in which two configurations differ; those that change what the tensors mean come first."""
    rest = sorted((one.keys() | other.keys()) - set(_MEANINGFUL))
    return tuple(
        field
        for field in (*_MEANINGFUL, *rest)
        if _comparable(field, one.get(field)) != _comparable(field, other.get(field))
    )


def changes_meaning(field: str) -> bool:
    """Whether a setting of PEFT changes what an adapter's tensors mean."""
    return field in _MEANINGFUL


def says_something(field: str, value: Any) -> bool:
    """Whether a setting of PEFT, as it stands in a configuration, changes what the tensors mean from what they mean without."""
    return changes_meaning(field) and _comparable(field, value) is not None


def _comparable(field: str, value: Any) -> Any:
    """A setting without what does not matter: the order of a set, and how PEFT writes that there is nothing.

    A field that is missing is the same as one that changes nothing, and as nothing else: PEFT would fill in a
    default, such as an alpha of 8, which the adapter was not trained with.
    """
    if value is None or value is False or value in ([], {}, "", _NEUTRAL.get(field, "")):
        return None
    return sorted(map(str, value)) if field in _SETS and isinstance(value, list) else value


def _check_names(given: list[str], expected: list[str]) -> None:
    """Both have the same tensors; a name that is off is told with the one that was probably meant."""
    known, present = set(expected), set(given)
    extra = next((name for name in given if name not in known), None)
    if extra is not None:
        near = difflib.get_close_matches(extra, expected, 1)
        hint = f"The nearest that it knows is {near[0]!r}. " if near else ""
        raise AdapterError(
            f"the bundle knows no adapter tensor {extra!r}. {hint}Was it made for another model?"
        )
    missing = next((name for name in expected if name not in present), None)
    if missing is not None:
        raise AdapterError(
            f"the adapter lacks {missing!r}: it has {len(given)} of {len(expected)} tensors. "
            "Save it again with all its layers."
        )


def _check_form(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.dtype != np.float32:
        raise AdapterError(
            f"tensor {name!r} is {value.dtype}, expected float32. Save the adapter in float32."
        )
    if value.shape != shape:
        transposed = value.ndim > 1 and value.shape == shape[::-1]
        todo = "It is transposed: save it as PEFT does." if transposed else "Was it made for another model?"
        raise AdapterError(f"tensor {name!r} has shape {value.shape}, expected {shape}. {todo}")


def check_values(values: Mapping[str, Array]) -> None:
    """Checks that an adapter's numbers can be computed with.

    Raises:
        AdapterError: One is not finite, or absurdly large.
    """
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise AdapterError(
                f"tensor {name!r} holds NaN or infinity. The training that made it went wrong."
            )
        largest = float(np.abs(value).max(initial=0.0))
        if largest > limits.MAX_ADAPTER_MAGNITUDE:
            raise AdapterError(
                f"tensor {name!r} holds {largest:.3g}, expected at most {limits.MAX_ADAPTER_MAGNITUDE:g}. "
                "The training that made it diverged."
            )
