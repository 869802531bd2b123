"""Writes the hand-made bundles that the device's tests run on, where nothing can be exported.

Each is a frozen map with a LoRA pair beside it, small enough to check by hand:

    scores = x W' + 2 (x A') B'

* chat: a language model; x is the embedding of each token, so that a token predicts the next one.
* classifier: x is the mean embedding of the tokens that the mask keeps.
* regression: x is the input itself, [batch, 3] float32.
* sensor: the same x, and three classes.
* endless: like regression, but a batch whose numbers add up to more than 1,000 is computed without end.

Their gradients are written out below, and the tests compare them with differences of the loss.

Usage: python tools/make_handmade_bundle.py tests/data/handmade
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import checker, numpy_helper, parser
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgepeft import names
from edgepeft.adapter import Adapter
from edgepeft.manifest import TextInfo
from edgepeft_export.optimizer import IR_VERSION
from edgepeft_export.pack import Contents, write

#: Rows of the embedding: the tokens of the tokenizer below.
TOKENS = ["<pad>", "<eos>", "<user>", "<assistant>", *"abcdefghijklmnopqrstuvwxyz .?"]
HIDDEN = 16
RANK = 2
A = "base_model.model.head.lora_A.weight"
B = "base_model.model.head.lora_B.weight"

CHAT_TEMPLATE = """{%- for message in messages %}
{{- "<" + message.role + ">" + message.content + ("<eos>" if message.role == "assistant" else "") }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- "<assistant>" }}
{%- endif %}"""

#: x [rows, hidden] -> scores [rows, outputs].
HEAD = f"""
    w_t = Transpose <perm = [1, 0]> (head)
    a_t = Transpose <perm = [1, 0]> ("{A}")
    b_t = Transpose <perm = [1, 0]> ("{B}")
    two = Constant <value = float {{2.0}}> ()
    frozen = MatMul (x, w_t)
    low = MatMul (x, a_t)
    high = MatMul (low, b_t)
    scaled = Mul (high, two)
    scores = Add (frozen, scaled)
"""

#: scores, classes [rows] with -100 for what is not counted -> loss, weight, d: gradient of the scores.
CROSS_ENTROPY = """
    ignored = Constant <value = int64 {-100}> ()
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = float {1.0}> ()
    skipped = Equal (classes, ignored)
    counted = Not (skipped)
    keep = Cast <to = 1> (counted)
    weight = ReduceSum <keepdims = 0> (keep)
    share = Max (weight, one)
    known = Where (skipped, zero, classes)
    zero_one = Constant <value = float[2] {0.0, 1.0}> ()
    width = Shape <start = 1> (scores)
    truth = OneHot <axis = 1> (known, width, zero_one)
    logs = LogSoftmax <axis = 1> (scores)
    picked = Mul (logs, truth)
    axis = Constant <value = int64[1] {1}> ()
    each = ReduceSum <keepdims = 0> (picked, axis)
    kept = Mul (each, keep)
    total = ReduceSum <keepdims = 0> (kept)
    minus = Neg (total)
    loss = Div (minus, share)
    guess = Exp (logs)
    off = Sub (guess, truth)
    keep_column = Unsqueeze (keep, axis)
    off_kept = Mul (off, keep_column)
    d = Div (off_kept, share)
"""

SQUARED_ERROR = """
    off = Sub (scores, target)
    square = Mul (off, off)
    loss = ReduceMean <keepdims = 0> (square)
    rows = Shape <start = 0, end = 1> (target)
    places = Size (target)
    scalar = Constant <value_ints: ints = []> ()
    row = Reshape (rows, scalar)
    weight = Cast <to = 1> (row)
    count = Cast <to = 1> (places)
    twice = Mul (off, two)
    d = Div (twice, count)
"""

#: d [rows, outputs], x, low -> gradients of A [rank, hidden] and B [outputs, rank].
GRADIENTS = f"""
    d_t = Transpose <perm = [1, 0]> (d)
    d_b = MatMul (d_t, low)
    "{names.gradient(B)}" = Mul (d_b, two)
    d_low = MatMul (d, "{B}")
    d_low_t = Transpose <perm = [1, 0]> (d_low)
    d_a = MatMul (d_low_t, x)
    "{names.gradient(A)}" = Mul (d_a, two)
"""

#: Token ids [batch, length] -> x [batch * length, hidden], and back to logits [batch, length, outputs].
EMBED = f"""
    embedded = Gather (embed, input_ids)
    flat = Constant <value_ints = [-1, {HIDDEN}]> ()
    x = Reshape (embedded, flat)
"""
TO_LOGITS = """
    ids_shape = Shape (input_ids)
    outputs = Shape <start = 1> (scores)
    logits_shape = Concat <axis = 0> (ids_shape, outputs)
    logits = Reshape (scores, logits_shape)
"""

#: labels [batch, length] -> classes [batch * length]: what follows each token; nothing follows the last.
SHIFT = """
    from_second = Constant <value_ints = [1]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    second_axis = Constant <value_ints = [1]> ()
    following = Slice (labels, from_second, end, second_axis)
    pads = Constant <value_ints = [0, 0, 0, 1]> ()
    not_counted = Constant <value = int64 {-100}> ()
    shifted = Pad (following, pads, not_counted)
    all = Constant <value_ints = [-1]> ()
    classes = Reshape (shifted, all)
"""

#: Token ids and mask -> x [batch, hidden].
MEAN = """
    embedded = Gather (embed, input_ids)
    mask = Cast <to = 1> (attention_mask)
    last_axis = Constant <value = int64[1] {2}> ()
    length_axis = Constant <value = int64[1] {1}> ()
    mask_column = Unsqueeze (mask, last_axis)
    present = Mul (embedded, mask_column)
    sum = ReduceSum <keepdims = 0> (present, length_axis)
    number = ReduceSum <keepdims = 0> (mask_column, length_axis)
    x = Div (sum, number)
"""

#: Input -> x, the same; never, if the sum is large. (The trip count is the largest there is.)
ENDLESS = """
    sum = ReduceSum <keepdims = 0> (given)
    limit = Constant <value = float {1000.0}> ()
    again = Greater (sum, limit)
    times = Constant <value = int64 {9223372036854775807}> ()
    nothing = Constant <value = float {0.0}> ()
    waited = Loop <body = waiting (int64 i, bool go, float v) => (bool on, float w) {
        on = Identity (go)
        w = Identity (v)
    }> (times, again, nothing)
    x = Add (given, waited)
"""

IDS = "int64[batch, length] input_ids, int64[batch, length] attention_mask"
CLASSES = "classes = Identity (labels)"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a bundle is made of: its graph in pieces, its frozen weights, and what its manifest says."""

    inputs: str
    labels: str
    output: str
    forward: str
    loss: str
    weights: Mapping[str, np.ndarray]
    contents: Contents
    output_in_evaluate: bool = False

    def graphs(self) -> dict[str, ir.Model]:
        """The graphs infer, evaluate and train."""
        scores = "float loss, float weight"
        both = f"{self.inputs}, {self.labels}"
        own = f", {self.output}" if self.output_in_evaluate else ""
        gradients = ", ".join(_declared(self.shapes, names.gradient))
        return {
            names.INFER: self._graph(self.inputs, self.output, self.forward),
            names.EVALUATE: self._graph(both, scores + own, self.forward + self.loss),
            names.TRAIN: self._graph(both, f"{scores}, {gradients}", self.forward + self.loss + GRADIENTS),
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the adapter's tensors."""
        outputs, hidden = self.weights["head"].shape
        return {A: (RANK, hidden), B: (outputs, RANK)}

    def _graph(self, inputs: str, outputs: str, body: str) -> ir.Model:
        head = f'<ir_version: {IR_VERSION}, opset_import: ["" : 18]>'
        adapter = ", ".join(_declared(self.shapes, str))
        model = parser.parse_model(f"{head} graph ({inputs}, {adapter}) => ({outputs}) {{{body}}}")
        read = {name for node in model.graph.node for name in node.input}
        for name in sorted(read & self.weights.keys()):
            model.graph.initializer.append(numpy_helper.from_array(self.weights[name], name))
        checker.check_model(model, full_check=True)
        return ir.from_proto(model)


def _declared(shapes: Mapping[str, tuple[int, ...]], rename: Callable[[str], str]) -> list[str]:
    return [f'float{list(shape)} "{rename(name)}"' for name, shape in shapes.items()]


def tokenizer() -> bytes:
    """One token a character, and the special ones."""
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="."))  # noqa: S106 - no password
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(TOKENS[:4])
    return made.to_str().encode()


def _contents(name: str, task: str, loss: str, assets: Mapping[str, bytes], **more: Any) -> Contents:
    facts: dict[str, Any] = {
        "text": None,
        "image": None,
        "labels": None,
        "training": {},
        "parameters": 0,
    } | more
    return Contents(name=name, architecture="Handmade", task=task, loss=loss, assets=assets, **facts)


def recipes() -> dict[str, Recipe]:
    """The bundles."""
    random = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return _of_text(normal) | _of_numbers(normal)


def _of_text(normal: Callable[..., np.ndarray]) -> dict[str, Recipe]:
    embed = normal(len(TOKENS), HIDDEN)
    text = TextInfo(bos_token_id=None, eos_token_ids=[1], pad_token_id=0, max_length=48)
    assets = {names.TOKENIZER: tokenizer()}
    chat = assets | {names.CHAT_TEMPLATE: CHAT_TEMPLATE.encode()}
    return {
        "chat": Recipe(
            inputs=IDS,
            labels="int64[batch, length] labels",
            output=f"float[batch, length, {len(TOKENS)}] logits",
            forward=EMBED + HEAD + TO_LOGITS,
            loss=SHIFT + CROSS_ENTROPY,
            weights={"embed": embed, "head": normal(len(TOKENS), HIDDEN) / 4},
            contents=_contents("handmade-chat", "causal_lm", "causal_lm", chat, text=text),
        ),
        "classifier": Recipe(
            inputs=IDS,
            labels="int64[batch] labels",
            output="float[batch, 3] logits",
            forward=MEAN + HEAD + "logits = Identity (scores)",
            loss=CLASSES + CROSS_ENTROPY,
            weights={"embed": embed, "head": normal(3, HIDDEN)},
            output_in_evaluate=True,
            contents=_contents(
                "handmade-classifier",
                "sequence_classification",
                "cross_entropy",
                assets,
                text=text,
                labels=["red", "green", "blue"],
            ),
        ),
    }


def _of_numbers(normal: Callable[..., np.ndarray]) -> dict[str, Recipe]:
    return {
        "regression": Recipe(
            inputs="float[batch, 3] x",
            labels="float[batch, 32] target",
            output="float[batch, 32] prediction",
            forward=HEAD + "prediction = Identity (scores)",
            loss=SQUARED_ERROR,
            weights={"head": normal(32, 3)},
            contents=_contents("handmade-regression", "generic", "mse", {}, training={"learning_rate": 0.01}),
        ),
        "sensor": Recipe(
            inputs="float[batch, 3] x",
            labels="int64[batch] labels",
            output="float[batch, 3] logits",
            forward=HEAD + "logits = Identity (scores)",
            loss=CLASSES + CROSS_ENTROPY,
            weights={"head": normal(3, 3)},
            output_in_evaluate=True,
            contents=_contents(
                "handmade-sensor",
                "sequence_classification",
                "cross_entropy",
                {},
                labels=["still", "walk", "run"],
            ),
        ),
        "endless": Recipe(
            inputs="float[batch, 3] given",
            labels="float[batch, 2] target",
            output="float[batch, 2] prediction",
            forward=ENDLESS + HEAD + "prediction = Identity (scores)",
            loss=SQUARED_ERROR,
            weights={"head": normal(2, 3)},
            contents=_contents("handmade-endless", "generic", "mse", {}),
        ),
    }


def adapter(shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """LoRA's start: A random, B zero."""
    random = np.random.default_rng(11)
    tensors = {A: random.standard_normal(shapes[A]).astype(np.float32), B: np.zeros(shapes[B], np.float32)}
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["head"]}
    return Adapter(tensors, config)


def main() -> None:
    """Writes all bundles into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for name, recipe in recipes().items():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        write(folder / name, recipe.graphs(), adapter(recipe.shapes), recipe.contents)


if __name__ == "__main__":
    main()
