"""Stage attach: which tensors of a model are trained, and under which names a bundle knows them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_peft_config, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn

from edgepeft import names
from edgepeft.tensors import Array
from edgepeft_export.errors import ExportError


@dataclass(frozen=True)
class Attached:
    """A model with its adapter.

    Attributes:
        model: The model that is traced.
        names: The bundle's name of each trainable parameter, by the parameter's name in `model`.
        config: What the bundle's adapter_config.json holds.
    """

    model: nn.Module
    names: Mapping[str, str]
    config: Mapping[str, Any]

    def tensors(self) -> dict[str, Array]:
        """The trainable tensors as they are now, float32, by the bundle's names."""
        parameters = dict(self.model.named_parameters())
        return {
            name: parameters[parameter].detach().cpu().numpy().astype(np.float32)
            for parameter, name in self.names.items()
        }


#: What a lone output is called, and what adapter tensors are prefixed with whose name is taken.
_LOGITS, _PREFIX = "logits", "model."


def attach(
    model: nn.Module,
    adapter: PeftConfig | Mapping[str, Any] | None,
    seed: int,
    inputs: Collection[str] = (),
) -> Attached:
    """Attaches an adapter with HF PEFT, or takes what is trainable already.

    Args:
        model: Any module; its trainable parameters are the adapter if `adapter` is `None`.
        adapter: A PEFT configuration, or one as a mapping with `peft_type`.
        seed: Seed of the adapter's first values.
        inputs: Names of the batch's tensors, which no adapter tensor may have.

    Raises:
        ExportError: The model is not float32, PEFT refused the configuration, nothing is trainable, or an input
            has a name that graphs use.
    """
    _check_inputs(inputs)
    _check_dtypes(model)
    if adapter is not None:
        if isinstance(model, PeftModel):
            raise ExportError(
                "attach", "the model is wrapped by PEFT already; give adapter=None to take its adapter."
            )
        try:
            config = adapter if isinstance(adapter, PeftConfig) else _trainable_config(adapter)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportError("attach", f"PEFT refused the adapter: {error}") from error
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ExportError(
            "attach",
            "the model has no trainable parameter: expected at least one with requires_grad=True. "
            "Give an adapter config, or wrap the model with peft.get_peft_model first.",
        )
    if isinstance(model, PeftModel):
        return Attached(model, _peft_names(model, trainable), _peft_config(model))
    return Attached(model, _free_names(trainable, {*inputs, _LOGITS}), {"peft_type": None})


def _check_inputs(inputs: Collection[str]) -> None:
    for name in inputs:
        if names.is_given(name):
            raise ExportError(
                "attach",
                f"the input {name!r} has a name that the bundle's graphs give to an output of theirs. Wrap the model in a "
                "module whose argument is called otherwise.",
            )


def _check_dtypes(model: nn.Module) -> None:
    """Bundles are float32; a model of less would be refused by a graph's first sum, minutes later."""
    halves = (torch.float16, torch.bfloat16)
    tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if b.dtype in halves)]
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ExportError(
                "attach",
                f"{name} is {dtype}; expected a float32 model. Call model.float() before the export.",
            )


def _free_names(parameters: list[str], taken: Collection[str]) -> dict[str, str]:
    """Names for the bundle: the parameters' own, prefixed where graphs use such a name for something else."""
    found: dict[str, str] = {}
    for parameter in parameters:
        name = parameter
        while names.is_reserved(name) or name in taken or (name != parameter and name in parameters):
            name = _PREFIX + name
        found[parameter] = name
    return found


def _trainable_config(adapter: Mapping[str, Any]) -> PeftConfig:
    """The configuration of a mapping; a saved one says inference mode, which would freeze the adapter."""
    return get_peft_config(dict(adapter) | {"inference_mode": False})


def _peft_names(model: PeftModel, trainable: list[str]) -> dict[str, str]:
    """PEFT's key in adapter_model.safetensors of each parameter: the key whose tensor is the parameter."""
    saved = get_peft_model_state_dict(
        model,
        adapter_name=model.active_adapter,
        save_embedding_layers=False,  # frozen ones, beside an adapter of theirs
    )
    keys = {value.data_ptr(): key for key, value in saved.items() if value.numel()}
    parameters = dict(model.named_parameters())
    suffix = f".{model.active_adapter}"
    return {name: keys.get(parameters[name].data_ptr(), name.replace(suffix, "")) for name in trainable}


def _peft_config(model: PeftModel) -> dict[str, Any]:
    """The configuration as PEFT writes it: sets as sorted lists, inference mode on."""
    config = model.active_peft_config.to_dict() | {"inference_mode": True}
    base = config.get("base_model_name_or_path")
    if (
        isinstance(base, str) and Path(base).is_absolute()
    ):  # a folder of this machine tells other machines nothing
        config["base_model_name_or_path"] = Path(base).name
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)


@contextmanager
def as_traced(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode without a key-value cache, and back afterwards."""
    training = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    model.eval()
    if use_cache is not None:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        if use_cache is not None:
            config.use_cache = use_cache  # type: ignore[union-attr]
