"""Small programs that make adapters and bundles, sound and hostile, for the tests of what reads them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import manifest as schema
from edgepeft import names, tensors
from edgepeft.adapter import Adapter

LORA_A = "base_model.model.layers.0.q_proj.lora_A.weight"
LORA_B = "base_model.model.layers.0.q_proj.lora_B.weight"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "lora_dropout": 0.0,
}


def row(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    """One tensor's row of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of a header (JSON value, text or bytes) and data, nothing checked."""
    if isinstance(header, bytes):
        text = header
    else:
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def sound_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors that the test bundle's adapter has."""
    random = np.random.default_rng(seed)
    return {
        LORA_A: random.standard_normal((2, 8), dtype=np.float32),
        LORA_B: random.standard_normal((8, 2), dtype=np.float32),
    }


def sound_adapter(base_id: str | None = None, seed: int = 0) -> Adapter:
    """An adapter that fits the test bundle."""
    return Adapter(sound_tensors(seed), CONFIG, base_id)


def write_adapter(folder: Path, model: bytes, config: bytes | None = None) -> Path:
    """An adapter's folder with exactly these contents."""
    folder.mkdir()
    (folder / names.ADAPTER_CONFIG).write_bytes(json.dumps(CONFIG).encode() if config is None else config)
    (folder / names.ADAPTER_MODEL).write_bytes(model)
    return folder


def base_weights() -> dict[str, np.ndarray]:
    """Frozen weights of several dtypes; NaN is a value like any other there."""
    return {
        "embed.weight": np.arange(64, dtype=np.float32).reshape(8, 8),
        "mask": np.array([True, False, True]),
        "odd": np.array([np.nan, np.inf], dtype=np.float32),
        "positions": np.arange(5, dtype=np.int64),
        "scale": np.array(0.5, dtype=np.float32),
    }


def write_bundle(folder: Path, base: bytes | None = None) -> schema.Manifest:
    """A sound bundle; its graphs are bytes that only a runtime would look into."""
    contents = {
        names.BASE: tensors.serialize(base_weights(), {}) if base is None else base,
        names.graph_file(names.INFER): b"infer graph",
        names.graph_file(names.TRAIN): b"train graph",
        names.TOKENIZER: b'{"tokens": []}',
    }
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    sha256 = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    base_id = schema.base_id(sha256[names.BASE], sha256[names.graph_file(names.INFER)])
    sound_adapter(base_id).save(folder / names.INITIAL_ADAPTER)
    manifest = make_manifest(folder, base_id, [] if base else list(base_weights()))
    (folder / names.MANIFEST).write_bytes(schema.encode(manifest))
    return manifest


def make_manifest(folder: Path, base_id: str, weights: Sequence[str] = ()) -> schema.Manifest:
    """The manifest of what a folder holds."""
    rows = [
        schema.AdapterTensor(name=name, dtype="float32", shape=list(value.shape))
        for name, value in sound_tensors().items()
    ]
    inputs = [
        schema.Port(name="input_ids", dtype="int64", shape=["batch", "length"]),
        *(schema.Port(name=tensor.name, dtype=tensor.dtype, shape=list(tensor.shape)) for tensor in rows),
    ]
    logits = schema.Port(name=names.LOGITS, dtype="float32", shape=["batch", "length", 8])
    labels = schema.Port(name=names.LABELS, dtype="int64", shape=["batch", "length"])
    measured = [schema.Port(name=name, dtype="float32", shape=[]) for name in (names.LOSS, names.WEIGHT)]
    gradients = [
        schema.Port(name=names.gradient(tensor.name), dtype="float32", shape=list(tensor.shape))
        for tensor in rows
    ]
    ports = {
        names.INFER: (inputs, [logits]),
        names.TRAIN: ([*inputs, labels], [*measured, *gradients]),
    }
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return schema.Manifest(
        schema_version=schema.SCHEMA_VERSION,
        model=schema.ModelInfo(name="tiny", architecture="TinyForCausalLM", parameters=75),
        task="causal_lm",
        loss="causal_lm",
        base_id=base_id,
        adapter=schema.AdapterInfo(peft_type="LORA", tensors=rows),
        graphs={
            name: schema.GraphInfo(
                file=names.graph_file(name), inputs=taken, outputs=given, weights=list(weights)
            )
            for name, (taken, given) in ports.items()
        },
        text=schema.TextInfo(bos_token_id=None, eos_token_ids=[2], pad_token_id=0, max_length=16),
        labels=None,
        training={"learning_rate": 2e-4, "batch_size": 4},
        files={path.relative_to(folder).as_posix(): schema.file_entry(path) for path in paths},
        made_by={"edgepeft": "0.1.0"},
    )


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies a change to a bundle's manifest, as a forger would."""
    path = folder / names.MANIFEST
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: contents of files, targets of links."""
    return {
        path.relative_to(folder).as_posix(): (
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_dir() or path.stat().st_size < 1 << 30
    }
