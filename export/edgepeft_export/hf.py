"""Hugging Face folders: model, tokenizer and an example batch, ready for `export`."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgepeft import manifest as schema
from edgepeft import names
from edgepeft_export.errors import ExportError

#: Rows and tokens of the example batch; any but one serve, sizes are symbolic.
_EXAMPLE = (2, 16)
_SEED = 0
#: Where a model does not say how long a text may be.
_DEFAULT_LENGTH = 512

_LOSSES = {"causal_lm": "causal_lm", "sequence_classification": "cross_entropy"}
PEFT_TASKS = {"causal_lm": "CAUSAL_LM", "sequence_classification": "SEQ_CLS"}


@dataclass(frozen=True)
class Source:
    """What a folder gives: arguments of `export` by its names."""

    model: nn.Module
    example_inputs: dict[str, Tensor]
    loss: str
    name: str
    text: schema.TextInfo
    assets: dict[str, bytes]
    labels: list[str] | None


def load_folder(folder: Path, task: str, labels: list[str] | None = None) -> Source:
    """Loads a Hugging Face folder, or one with a single GGUF file, in float32, offline.

    Args:
        folder: Holds config.json, safetensors and a tokenizer; or a GGUF file, which holds all three.
        task: "causal_lm" or "sequence_classification".
        labels: Names of the classes of a classifier.

    Raises:
        ExportError: transformers refused the folder.
    """
    import transformers  # noqa: PLC0415 - takes seconds, and --help should not

    options: dict[str, Any] = {"local_files_only": True} | _gguf(folder)
    classifier = {} if labels is None else {"num_labels": len(labels)}
    loaders = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "sequence_classification": transformers.AutoModelForSequenceClassification,
    }
    try:
        with gguf_parsed_once(), torch.random.fork_rng():
            torch.manual_seed(_SEED)  # a new classifier's head starts at random
            model = loaders[task].from_pretrained(
                folder, dtype=torch.float32, use_safetensors=not _gguf(folder), **options, **classifier
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ExportError("attach", f"transformers cannot load {folder}: {error}") from error
    return Source(
        model=model,
        example_inputs=example_batch(model, tokenizer, task),
        loss=_LOSSES[task],
        name=Path(options.get("gguf_file", folder)).name.split(".")[0],
        text=text_info(model, tokenizer),
        assets=tokenizer_assets(tokenizer),
        labels=labels,
    )


def _gguf(folder: Path) -> dict[str, str]:
    """The option that names the folder's GGUF file, if that is what the folder holds."""
    files = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").exists() or not files:
        return {}
    if len(files) > 1:
        raise ExportError(
            "attach", f"{folder} holds {len(files)} GGUF files; expected one. Give a folder with one."
        )
    return {"gguf_file": files[0].name}


@contextmanager
def gguf_parsed_once() -> Iterator[None]:
    """Has transformers parse a GGUF file once: half of the time that loading takes.

    It parses the file for the configuration, the model and the tokenizer, and makes a table of tensor names for
    every module.
    """
    import gguf  # noqa: PLC0415 - only where something is loaded

    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in slow.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)


def example_batch(model: Any, tokenizer: Any, task: str) -> dict[str, Tensor]:
    """A batch of random tokens, [rows, length] int64, with what else the model takes."""
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(0, model.config.vocab_size, _EXAMPLE, generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in tokenizer.model_input_names and task != "causal_lm":
        batch["token_type_ids"] = torch.zeros_like(ids)
    rows = _EXAMPLE[0]
    batch[names.LABELS] = ids.clone() if task == "causal_lm" else torch.arange(rows) % model.config.num_labels
    return batch


def text_info(model: Any, tokenizer: Any) -> schema.TextInfo:
    """Special tokens and the longest text, as the model's and the tokenizer's configurations have them."""
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None) or tokenizer.eos_token_id
    eos = [] if ends is None else ends if isinstance(ends, list) else [ends]
    pad = tokenizer.pad_token_id
    length = getattr(model.config, "max_position_embeddings", None) or _DEFAULT_LENGTH
    return schema.TextInfo(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=eos,
        pad_token_id=pad if pad is not None else (eos[0] if eos else 0),
        max_length=length,
    )


def tokenizer_assets(tokenizer: Any) -> dict[str, bytes]:
    """The tokenizer and its chat template as files of the bundle.

    Raises:
        ExportError: The tokenizer has no form that the tokenizers library reads.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            "pack", f"{type(tokenizer).__name__} is no fast tokenizer. Use the model's fast one."
        )
    assets = {names.TOKENIZER: _unpadded(backend).encode()}
    if isinstance(tokenizer.chat_template, str):
        assets[names.CHAT_TEMPLATE] = tokenizer.chat_template.encode()
    return assets


def _unpadded(backend: Any) -> str:
    """The tokenizer's JSON without its own padding and truncation: batches are padded, and long rows refused."""
    copy = type(backend).from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    text: str = copy.to_str()
    return text
