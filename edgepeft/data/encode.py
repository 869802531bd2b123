"""Records -> rows: text becomes tokens, class names become numbers, and every array is checked against the graph."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepeft import arrays, names
from edgepeft.data.contract import IGNORED, LENGTH, Encoded, Record, Row
from edgepeft.errors import ArgumentError, DataError
from edgepeft.labels import listed
from edgepeft.limits import MAX_AXIS_LENGTH
from edgepeft.manifest import Manifest, Port
from edgepeft.tensors import Array
from edgepeft.text import Text

#: Who takes text, by task.
_MODELS = {"causal_lm": "language model", "sequence_classification": "classifier"}

#: By loss, for those whose labels are classes: the axis of the logits that has a place for each class.
_CLASS_AXIS = {"causal_lm": -1, "cross_entropy": 1}

#: Digits of a class's number: more than any has, and few enough for Python to read.
_MAX_DIGITS = 20


class Encoder:
    """Makes rows for one graph of one bundle.

    Args:
        manifest: The bundle's manifest.
        text: The bundle's tokenizer, for text.
        labels: Names of the classes, in order.
        graph: The graph that the rows are for; without labels if it takes none.
        max_length: Longer rows are cut to this; by default they are refused if the model has no room for them.

    Raises:
        ArgumentError: `max_length` is more than the model takes, or its rows have no length.
    """

    def __init__(
        self,
        manifest: Manifest,
        text: Text | None,
        labels: Sequence[str] | None,
        *,
        graph: str = names.TRAIN,
        max_length: int | None = None,
    ) -> None:
        self.manifest = manifest
        self.text = text
        self.ports = manifest.data_inputs(graph)
        self.classes = list(labels or []) if manifest.loss == "cross_entropy" else None
        self.max_length = max_length
        labelled = any(port.name == names.LABELS for port in self.ports)
        forms = [form for form in _FORMS if form.labelled or not labelled] if text is not None else []
        self._forms = {form.keys: form for form in forms if form.task == manifest.task}
        self._foreign = {form.keys: form for form in forms if form.task != manifest.task}
        self._wanted = {port.name for port in self.ports}
        self._room = manifest.text.max_length if manifest.text is not None else None
        if max_length is not None and not self.varies:
            raise ArgumentError(
                "max_length is for rows that have a length; this model's have none. Leave it out."
            )
        if max_length is not None and self._room is not None and max_length > self._room:
            raise ArgumentError(f"max_length is {max_length}; this model takes at most {self._room}.")

    @property
    def varies(self) -> bool:
        """Whether rows differ in length."""
        return any(LENGTH in port.shape for port in self.ports)

    def check(self, record: Any) -> None:
        """What can be said of a record at little cost: its keys, their types, its label.

        Raises:
            DataError: The record is of no use.
        """
        record = self._named(record)
        form = self._form(record)
        if form is not None:
            form.check(record, self)

    def reads(self, keys: Iterable[str]) -> list[str]:
        """Of a record's keys, those that it is made a row of.

        Raises:
            DataError: The record is of no use.
        """
        whole = self._form(keys) is not None
        return [key for key in keys if whole or key in self._wanted or key == "label"]

    def encode(self, record: Any) -> Encoded:
        """The row of a record.

        Raises:
            DataError: The record is of no use, or too long for the model.
        """
        record = self._named(record)
        form = self._form(record)
        if form is None:
            values, cut = self._arrays(record), False
        else:
            assert self.text is not None
            form.check(record, self)
            values, cut = form.encode(record, self, self.text)
            missing = next((port.name for port in self.ports if port.name not in values), None)
            if missing is not None:
                raise DataError(
                    f"this model also takes {missing!r}, which no text gives. Give arrays instead."
                )
        row = {port.name: values[port.name] for port in self.ports}
        _check_sizes(row, self.ports)
        _check_labels(row, self.manifest, self.classes)
        return self._fitted(row, cut=cut)

    def length(self, row: Row) -> int:
        """How long a row is: its size along the axis "length"."""
        sizes = (
            row[port.name].shape[port.shape.index(LENGTH) - 1] for port in self.ports if LENGTH in port.shape
        )
        return next(sizes, 0)

    def _named(self, record: Any) -> Record:
        """A record as a mapping: a bare text is one of a text alone."""
        if isinstance(record, str) and self.text is not None:
            return {"text": record}
        if not isinstance(record, Mapping):
            raise DataError(f"expected a mapping of names to values, got {type(record).__name__}.")
        return record

    def _form(self, record: Iterable[str]) -> "_Form | None":
        """How a record of text, or one of such keys, is read; `None` for one of arrays."""
        keys = frozenset(record)
        if keys in self._forms:
            return self._forms[keys]
        if self._wanted <= keys or ("label" in keys and self._wanted - {names.LABELS} <= keys):
            return None
        told = [form.told for form in self._forms.values()]
        told.append(f"the arrays {', '.join(port.name for port in self.ports)}")
        expected = ", ".join(told[:-1]) + ", or " * (len(told) > 1) + told[-1]
        lacking = next((sorted(known - keys) for known in self._forms if keys < known), None)
        if lacking is not None and keys:
            raise DataError(f"has no {lacking[0]!r}; expected {expected}.")
        if keys in self._foreign:
            task = self._foreign[keys].task
            raise DataError(
                f"is for a {_MODELS[task]}; this bundle's task is {self.manifest.task}: expected {expected}."
            )
        raise DataError(f"has the keys {_shown(keys)}; expected {expected}.")

    def _arrays(self, record: Record) -> Row:
        values = dict(record)
        if names.LABELS not in values and "label" in values:
            label = values["label"]
            values[names.LABELS] = label if self.classes is None else class_index(label, self.classes)
        return {port.name: _array(values[port.name], port) for port in self.ports}

    def _fitted(self, row: Row, *, cut: bool) -> Encoded:
        """A row that the model has room for."""
        length = self.length(row)
        if self.max_length is not None and length > self.max_length:
            cut, length = True, self.max_length
            row = {port.name: _shortened(row[port.name], port, length) for port in self.ports}
        if self._room is not None and length > self._room:
            raise DataError(
                f"is {length} tokens long; the model takes {self._room}. Split it, or cut all such rows with "
                "max_length."
            )
        generates = cut and self.manifest.task == "causal_lm" and names.LABELS in row
        if generates and (row[names.LABELS][1:] == IGNORED).all():  # the first token is foretold by none
            raise DataError(
                f"has no label that counts among its first {length} tokens. Raise max_length, or shorten what "
                "comes before the answer."
            )
        return Encoded(row, cut)


def _shown(keys: Iterable[Any]) -> str:
    """Keys in a message: what cannot be printed is written as its escape."""
    return ", ".join(sorted(repr(str(key))[1:-1] for key in keys)) or "none"


def written_label(text: str, classes: Sequence[str]) -> str | int:
    """A label that a file has as text: the name of a class, or digits for its number."""
    digits = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if digits and text not in classes else text


def class_index(label: Any, classes: Sequence[str]) -> int:
    """The number of a class that is given by name or by number.

    Raises:
        DataError: The model has no such class.
    """
    single = isinstance(label, np.integer) or (
        isinstance(label, np.ndarray) and label.ndim == 0 and label.dtype.kind in "iu"
    )
    number = label.item() if single else label
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if type(number) is int and 0 <= number < (len(classes) or MAX_AXIS_LENGTH):
        return number
    known = listed(classes, "numbers from 0")
    near = difflib.get_close_matches(str(number), classes, 1)
    hint = (
        f"Did you mean {near[0]!r}?" if near else "For classes of your own: train --labels, or with_labels."
    )
    raise DataError(f"label {repr(number)[:80]} is unknown; the model knows {known}. {hint}")


def _array(value: Any, port: Port) -> Array:
    try:
        array = arrays.convert(value, port.dtype)
    except ValueError as error:
        raise DataError(f"{port.name!r} is no {port.dtype} array: {error}.") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{port.name!r} holds NaN or infinity, or a number beyond {port.dtype}. Fill or leave out what is missing."
        )
    return array


def _shortened(value: Array, port: Port, length: int) -> Array:
    places = tuple(slice(length if size == LENGTH else None) for size in port.shape[1:])
    return value[places]


def _check_sizes(row: Row, ports: Sequence[Port]) -> None:
    """Every axis is as long as the graph says, and axes of one name are as long as each other."""
    seen: dict[str, tuple[int, str]] = {}
    for port in ports:
        shape, expected = row[port.name].shape, port.shape[1:]
        fits = len(shape) == len(expected) and all(
            got > 0 and (isinstance(want, str) or want == got)
            for want, got in zip(expected, shape, strict=True)
        )
        if not fits:
            raise DataError(f"{port.name!r} has shape {list(shape)}, expected {expected} a row.")
        for want, got in zip(expected, shape, strict=True):
            size, first = seen.setdefault(str(want), (got, port.name))
            if size != got:
                raise DataError(f"{first!r} and {port.name!r} differ in {want}: {size} and {got}.")


def _check_labels(row: Row, manifest: Manifest, named: Sequence[str] | None) -> None:
    """A row of classes names none that the model does not know; a graph may take one below 0 for another."""
    axis = _CLASS_AXIS.get(manifest.loss)
    labels = row.get(names.LABELS)
    if axis is None or labels is None:
        return
    logits = next((port for port in manifest.graphs[names.INFER].outputs if port.name == "logits"), None)
    classes = logits.shape[axis] if logits is not None and len(logits.shape) > 1 else None
    classes = len(named) if named else classes
    unknown = (labels < 0) if not isinstance(classes, int) else (labels < 0) | (labels >= classes)
    wrong = labels[unknown & (labels != IGNORED)]
    if wrong.size:
        known = f"0 to {classes - 1}" if isinstance(classes, int) else "numbers from 0"
        raise DataError(f"holds the label {wrong[0]}; the model knows {known}, and {IGNORED} for none.")


def _check_texts(record: Record, _: Encoder) -> None:
    for key in record.keys() - {"label"}:
        if not isinstance(record[key], str) or not record[key]:
            raise DataError(f"{key!r} is {repr(record[key])[:80]}; expected a text that is not empty.")


def _check_labelled(record: Record, encoder: Encoder) -> None:
    _check_texts(record, encoder)
    class_index(record["label"], encoder.classes or [])


def _check_messages(record: Record, _: Encoder) -> None:
    messages = record["messages"]
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError('"messages" must be {"role", "content"} texts that end with the assistant\'s.')


def _text(record: Record, _: Encoder, text: Text) -> tuple[Row, bool]:
    return _counted([], text.encode_start(record["text"]), text)


def _completion(record: Record, _: Encoder, text: Text) -> tuple[Row, bool]:
    return _counted(text.encode_prompt(record["prompt"]), text.encode(record["completion"]), text)


def _messages(record: Record, _: Encoder, text: Text) -> tuple[Row, bool]:
    *before, answer = record["messages"]
    return _counted(text.encode_prompt(before), text.encode(answer["content"]), text)


def _counted(prompt: list[int], completion: list[int], text: Text) -> tuple[Row, bool]:
    """A row of a causal language model: the loss counts the completion and the token that ends it."""
    ids = prompt + completion + text.info.eos_token_ids[:1]
    labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
    return _tokens(ids) | {names.LABELS: np.array(labels, dtype=np.int64)}, False


def _sequence(record: Record, encoder: Encoder, text: Text) -> tuple[Row, bool]:
    """A row of a classifier; a text that is cut keeps the special tokens around it."""
    ids = text.encode_sequence(record["text"])
    cut = encoder.max_length is not None and len(ids) > encoder.max_length
    if cut:
        ids = text.encode_sequence(record["text"], encoder.max_length)
    row = _tokens(ids) | {"token_type_ids": np.zeros(len(ids), dtype=np.int64)}
    if "label" in record:
        row[names.LABELS] = np.array(class_index(record["label"], encoder.classes or []), dtype=np.int64)
    return row, cut


def _tokens(ids: list[int]) -> dict[str, Array]:
    return {
        "input_ids": np.array(ids, dtype=np.int64),
        "attention_mask": np.ones(len(ids), dtype=np.int64),
    }


@dataclass(frozen=True)
class _Form:
    """One form of text.

    Attributes:
        keys: The record's keys, all of them.
        task: The task that it is for.
        check: What can be said at little cost.
        encode: Record -> values by input, and whether the text was cut.
        labelled: Whether it has what a loss needs.
    """

    keys: frozenset[str]
    task: str
    check: Callable[[Record, Encoder], None]
    encode: Callable[[Record, Encoder, Text], tuple[Row, bool]]
    labelled: bool = True

    @property
    def told(self) -> str:
        """The form in a message."""
        order = ("text", "prompt", "completion", "messages", "label")
        return "{" + ", ".join(f'"{key}"' for key in order if key in self.keys) + "}"


_FORMS = (
    _Form(frozenset({"text"}), "causal_lm", _check_texts, _text),
    _Form(frozenset({"prompt", "completion"}), "causal_lm", _check_texts, _completion),
    _Form(frozenset({"messages"}), "causal_lm", _check_messages, _messages),
    _Form(frozenset({"text", "label"}), "sequence_classification", _check_labelled, _sequence),
    _Form(frozenset({"text"}), "sequence_classification", _check_texts, _sequence, labelled=False),
    _Form(frozenset({"text"}), "generic", _check_texts, _sequence, labelled=False),
)
