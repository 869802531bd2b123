"""Names that the bundle's files and graphs use: written here once, read by the exporter and the runtime."""

import re
from dataclasses import dataclass

MANIFEST = "manifest.json"
BASE = "base.safetensors"
INITIAL_ADAPTER = "adapters/initial"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
ASSETS = "assets"
TOKENIZER = f"{ASSETS}/tokenizer.json"
CHAT_TEMPLATE = f"{ASSETS}/chat_template.jinja"

#: Files that every bundle lists, besides its graphs.
REQUIRED_FILES = (BASE, f"{INITIAL_ADAPTER}/{ADAPTER_CONFIG}", f"{INITIAL_ADAPTER}/{ADAPTER_MODEL}")

INFER = "infer"
EVALUATE = "evaluate"
TRAIN = "train"
DECODE = "decode"
ACCUMULATE = "accumulate"

LOSS = "loss"
WEIGHT = "weight"
LABELS = "labels"
EMBEDDING = "embedding"
LOGITS = "logits"
ACCUMULATED_WEIGHT = "accumulated_weight"
STEP = "step"
GRADIENT_NORM = "gradient_norm"


@dataclass(frozen=True)
class Optimizer:
    """One way to turn a gradient into an update.

    Attributes:
        slots: What it keeps for each adapter tensor, named as `torch.optim` does.
        settings: Scalars of its graph, float64, in the order of the inputs.
    """

    slots: tuple[str, ...]
    settings: tuple[str, ...]


OPTIMIZERS = {
    "adamw": Optimizer(
        slots=("exp_avg", "exp_avg_sq"),
        settings=("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm"),
    ),
    "sgd": Optimizer(
        slots=("momentum_buffer",),
        settings=("learning_rate", "momentum", "weight_decay", "max_grad_norm"),
    ),
}

_SCALARS = {LOSS, WEIGHT, ACCUMULATED_WEIGHT, STEP, GRADIENT_NORM}
_SCALARS |= {setting for optimizer in OPTIMIZERS.values() for setting in optimizer.settings}
_PREFIXES = {"gradient", "accumulated", "new"} | {slot for each in OPTIMIZERS.values() for slot in each.slots}


def is_given(name: str) -> bool:
    """Whether evaluation or training gives an output of that name, so that no input or output of a model may have it."""
    return name in (LOSS, WEIGHT) or name.startswith(gradient(""))


def is_reserved(name: str) -> bool:
    """Whether the graphs of every bundle use a name, or names like it, so that no adapter tensor may have it."""
    prefix, dot, _ = name.partition(".")
    return name in _SCALARS or (bool(dot) and prefix in _PREFIXES)


def update_graph(optimizer: str) -> str:
    """The graph that makes an optimizer's update."""
    return f"update_{optimizer}"


def graph_file(graph: str) -> str:
    """The file of a graph, as a path inside the bundle."""
    return f"graphs/{graph}.onnx"


def past(part: str, layer: int) -> str:
    """What a key-value cache holds of a layer before a call; `part` is "key" or "value"."""
    return f"past_{part}_{layer}"


def present(part: str, layer: int) -> str:
    """The same after the call."""
    return f"present_{part}_{layer}"


def gradient(tensor: str) -> str:
    """The gradient of an adapter tensor."""
    return f"gradient.{tensor}"


def accumulated(tensor: str) -> str:
    """The mean gradient of the batches so far."""
    return f"accumulated.{tensor}"


def slot(kind: str, tensor: str) -> str:
    """What an optimizer keeps for an adapter tensor."""
    return f"{kind}.{tensor}"


def new(name: str) -> str:
    """The output that replaces an input of the same name."""
    return f"new.{name}"


def natural(name: str) -> list[str | tuple[int, str]]:
    """What names are sorted by so that layer 2 comes before layer 10."""
    return [_digits(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]


def _digits(text: str) -> tuple[int, str]:
    """What sorts as the number does, however many digits it has: Python refuses to convert thousands."""
    digits = text.lstrip("0")
    return len(digits), digits
