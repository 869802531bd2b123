"""The decode graph: scores of the next token, from new tokens and a key-value cache of those before.

A graph of its own, of one row: it computes scores for the last token alone, and grows the cache by concatenation.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers.cache_utils import DynamicCache, DynamicLayer

from edgepeft import names
from edgepeft_export.attach import Attached
from edgepeft_export.trace import MAX_SIZE, Trace, export_forward
from edgepeft_export.translations import decompositions, registry

#: Tokens of the example: new ones, and those that its cache holds. Any but one serve.
_NEW, _PAST = 5, 7

#: What PyTorch's own operators are.
_OPERATOR = type(torch.ops.aten.add.Tensor)

#: Axes that vary, by the prefix of an input's name.
AXES = {"input_ids": {1: "new"}, "past_": {2: "past"}}


class DecodeModule(nn.Module):
    """A language model as a function of tokens and cache: scores of the last token, and the grown cache."""

    def __init__(self, model: nn.Module, layers: int) -> None:
        super().__init__()
        self.model = model
        self._layers = layers
        self._cache = cache_name(model)
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in _parameters(model) else {}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Runs the model on `input_ids` [1, new] int64 after the cache's tokens."""
        cache = DynamicCache()
        for layer in range(self._layers):
            keys, values = (batch[names.past(part, layer)] for part in ("key", "value"))
            filled: Any = DynamicLayer()  # type: ignore[no-untyped-call]
            filled.lazy_initialization(keys, values)
            filled.keys, filled.values = keys, values
            cache.layers.append(filled)
        given = {"input_ids": batch["input_ids"], self._cache: cache, "use_cache": True}
        outputs = self.model(**given, **self._options)
        result = {"logits": outputs.logits[:, -1:]}
        for layer, grown in enumerate(outputs[self._cache].layers):
            result |= {names.present("key", layer): grown.keys, names.present("value", layer): grown.values}
        return result


def _parameters(model: nn.Module) -> Mapping[str, Any]:
    """What the model takes, below an adapter."""
    base = getattr(model, "get_base_model", lambda: model)()
    return inspect.signature(base.forward).parameters


def cache_name(model: nn.Module) -> str:
    """What the model calls its key-value cache, as an argument and in its outputs: transformers renames it."""
    return "cache" if "cache" in _parameters(model) else "past_key_values"


def example_cache(model: nn.Module) -> dict[str, Tensor] | None:
    """Keys and values of some tokens, by the decode graph's inputs; `None` where the model has no plain cache."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return None  # virtual tokens lie in the cache, but not among the tokens
    ids = torch.zeros((1, _PAST), dtype=torch.int64)
    try:
        with torch.no_grad():
            cache = model(input_ids=ids, use_cache=True)[cache_name(model)]
    except (TypeError, KeyError, IndexError):
        return None
    layers = getattr(cache, "layers", [])
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    return {
        name: value
        for index, layer in enumerate(layers)
        for name, value in (
            (names.past("key", index), layer.keys),
            (names.past("value", index), layer.values),
        )
    }


def axes(inputs: dict[str, Tensor]) -> dict[str, dict[int, str]]:
    """Which axes of each input vary."""
    return {
        name: next(varying for prefix, varying in AXES.items() if name.startswith(prefix)) for name in inputs
    }


def trace_decode(attached: Attached) -> tuple[Trace, dict[str, dict[int, str]]] | None:
    """Traces the decode graph.

    Returns:
        The trace, and which axes of its inputs vary; `None` where the model has no plain key-value cache.

    Raises:
        ExportError: PyTorch cannot trace the model with its cache.
    """
    cache = example_cache(attached.model)
    if cache is None:
        return None
    module = DecodeModule(attached.model, len(cache) // 2)
    batch = {"input_ids": torch.zeros((1, _NEW), dtype=torch.int64)} | cache
    varying = axes(batch)
    sizes = {name: Dim(name, min=low, max=MAX_SIZE) for name, low in (("new", 1), ("past", 0))}
    dynamic = {name: {axis: sizes[size] for axis, size in of.items()} for name, of in varying.items()}
    with torch.no_grad():
        forward = export_forward(module, batch, dynamic)
        program = forward if _translated(forward) else forward.run_decompositions(decompositions())
        outputs = tuple(module(batch))
    trainable = tuple(f"model.{name}" for name in attached.names)
    return Trace(program, outputs, trainable, forward), varying


def _translated(program: ExportedProgram) -> bool:
    """Whether every operator has an ONNX translation as it is: then decomposing, which takes long, has no use."""
    operators = {node.target for node in program.graph.nodes if isinstance(node.target, _OPERATOR)}
    return all(registry().is_registered(operator) for operator in operators)
