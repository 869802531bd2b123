"""Names that the bundle's files and graphs use: written here once, read by the exporter and the runtime."""

MANIFEST = "manifest.json"
BASE = "base.safetensors"
INITIAL_ADAPTER = "adapters/initial"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
TOKENIZER = "assets/tokenizer.json"
CHAT_TEMPLATE = "assets/chat_template.jinja"

#: Files that every bundle lists, besides its graphs.
REQUIRED_FILES = (BASE, f"{INITIAL_ADAPTER}/{ADAPTER_CONFIG}", f"{INITIAL_ADAPTER}/{ADAPTER_MODEL}")

INFER = "infer"
EVALUATE = "evaluate"
TRAIN = "train"
ACCUMULATE = "accumulate"
UPDATE_ADAMW = "update_adamw"

LOSS = "loss"
WEIGHT = "weight"
LABELS = "labels"
ACCUMULATED_WEIGHT = "accumulated_weight"
STEP = "step"
GRADIENT_NORM = "gradient_norm"

#: Scalars of the AdamW update, float64, in the order of its inputs.
ADAMW_SETTINGS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm")


def graph_file(graph: str) -> str:
    """The file of a graph, as a path inside the bundle."""
    return f"graphs/{graph}.onnx"


def gradient(tensor: str) -> str:
    """The gradient of an adapter tensor."""
    return f"gradient.{tensor}"


def accumulated(tensor: str) -> str:
    """The mean gradient of the batches so far."""
    return f"accumulated.{tensor}"


def first_moment(tensor: str) -> str:
    """AdamW's running mean of gradients, named as `torch.optim.AdamW` does."""
    return f"exp_avg.{tensor}"


def second_moment(tensor: str) -> str:
    """AdamW's running mean of squared gradients, named as `torch.optim.AdamW` does."""
    return f"exp_avg_sq.{tensor}"


def new(name: str) -> str:
    """The output that replaces an input of the same name."""
    return f"new.{name}"
