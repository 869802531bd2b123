"""Rows of data -> batches: reading JSON Lines, encoding text, padding to a batch's longest row."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import arrays, limits, names
from edgepeft.errors import DataError
from edgepeft.manifest import Manifest, Port
from edgepeft.tensors import Array
from edgepeft.text import Text

#: A label that is not counted, as PyTorch and Hugging Face have it.
IGNORED = -100

#: One row: the data inputs of the train graph by name, without the batch axis.
Row = Mapping[str, Array]

#: What a user may give: a JSON Lines file, records as in one, or rows of arrays.
Data = str | os.PathLike[str] | Iterable[Mapping[str, Any]]

_FORMS = '{"text"}, {"prompt", "completion"}, {"messages"} or {"text", "label"}'


def read_rows(data: Data, manifest: Manifest, text: Text | None) -> list[Row]:
    """Reads and encodes all rows.

    Args:
        data: A JSON Lines file, an iterable of records like its lines, or of mappings of arrays.
        manifest: The bundle's manifest.
        text: The bundle's tokenizer, for text.

    Raises:
        DataError: A row is broken or unusable; the message says which and why. Nothing is dropped silently.
    """
    name, records = _records(data)
    rows = []
    for where, record in records:
        try:
            rows.append(_row(record, manifest, text))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if not rows:
        raise DataError(f"{name}: has no rows. Expected at least one.")
    return rows


def _records(data: Data) -> tuple[str, Iterable[tuple[str, Any]]]:
    """The data's name, and each record with its place."""
    if isinstance(data, str | os.PathLike):
        return str(data), read_json_lines(Path(data))
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise DataError(f"the data: expected a JSON Lines file or a list of rows, got {type(data).__name__}.")
    return "the data", ((f"row {index}", record) for index, record in enumerate(data, 1))


def read_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each line's place and object; blank lines are passed over.

    Raises:
        DataError: The file cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(limits.MAX_LINE_BYTES + 1), b""), 1):
                where = f"{path}:{number}"
                if len(line) > limits.MAX_LINE_BYTES:
                    raise DataError(f"{where}: longer than {limits.MAX_LINE_BYTES:,} bytes. One row a line.")
                if line.strip():
                    yield where, _json_object(where, line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _json_object(where: str, line: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON: {error}. Expected one object a line.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}.")
    return record


def _row(record: Any, manifest: Manifest, text: Text | None) -> Row:
    if not isinstance(record, Mapping):
        raise DataError(f"expected a mapping of names to values, got {type(record).__name__}.")
    keys = frozenset(record)
    ports = manifest.data_inputs(names.TRAIN)
    if text is not None and keys in _ENCODERS:
        task, encode = _ENCODERS[keys]
        if manifest.task != task:
            raise DataError(f"is for a {_MODELS[task]}; this bundle's task is {manifest.task}.")
        row = _checked_lengths(encode(record, manifest, text), ports, text)
    elif {port.name for port in ports} <= keys:
        row = {port.name: _array(record[port.name], port) for port in ports}
    else:
        wanted = ", ".join(port.name for port in ports)
        forms = f"{_FORMS}, or the arrays {wanted}" if text is not None else f"the arrays {wanted}"
        raise DataError(f"has the keys {', '.join(sorted(map(str, keys))) or 'none'}; expected {forms}.")
    _check_sizes(row, ports)
    _check_labels(row, manifest)
    return row


def _array(value: Any, port: Port) -> Array:
    try:
        return arrays.convert(value, port.dtype)
    except ValueError as error:
        raise DataError(f"{port.name!r} is no {port.dtype} array: {error}.") from error


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


def _check_labels(row: Row, manifest: Manifest) -> None:
    """A row of classes names none that the model does not know; a graph may take one below 0 for another."""
    axis = _CLASS_AXIS.get(manifest.loss)
    labels = row.get(names.LABELS)
    if axis is None or labels is None:
        return
    logits = next((port for port in manifest.graphs[names.INFER].outputs if port.name == "logits"), None)
    classes = logits.shape[axis] if logits is not None and len(logits.shape) > 1 else None
    unknown = (labels < 0) if not isinstance(classes, int) else (labels < 0) | (labels >= classes)
    wrong = labels[unknown & (labels != IGNORED)]
    if wrong.size:
        known = f"0 to {classes - 1}" if isinstance(classes, int) else "numbers from 0"
        raise DataError(f"holds the label {wrong[0]}; the model knows {known}, and {IGNORED} for none.")


def _string(record: Mapping[str, Any], key: str) -> str:
    if not isinstance(record[key], str) or not record[key]:
        raise DataError(f"{key!r} is {repr(record[key])[:80]}; expected a text that is not empty.")
    return str(record[key])


def _text(record: Mapping[str, Any], _: Manifest, text: Text) -> Row:
    return _counted([], text.encode_start(_string(record, "text")), text)


def _completion(record: Mapping[str, Any], _: Manifest, text: Text) -> Row:
    prompt = text.encode_prompt(_string(record, "prompt"))
    return _counted(prompt, text.encode(_string(record, "completion")), text)


def _messages(record: Mapping[str, Any], _: Manifest, text: Text) -> Row:
    messages = record["messages"]
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError('"messages" must be {"role", "content"} texts that end with the assistant\'s.')
    return _counted(text.encode_prompt(messages[:-1]), text.encode(messages[-1]["content"]), text)


def _counted(prompt: list[int], completion: list[int], text: Text) -> Row:
    """A row of a causal language model: the loss counts the completion and the token that ends it."""
    ids = prompt + completion + text.info.eos_token_ids[:1]
    labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
    return _tokens(ids) | {names.LABELS: np.array(labels, dtype=np.int64)}


def _labelled(record: Mapping[str, Any], manifest: Manifest, text: Text) -> Row:
    ids = text.encode_sequence(_string(record, "text"))
    return _tokens(ids) | {
        "token_type_ids": np.zeros(len(ids), dtype=np.int64),
        names.LABELS: np.array(_class_index(record["label"], manifest), dtype=np.int64),
    }


def _tokens(ids: list[int]) -> dict[str, Array]:
    return {
        "input_ids": np.array(ids, dtype=np.int64),
        "attention_mask": np.ones(len(ids), dtype=np.int64),
    }


def _checked_lengths(values: Row, ports: Sequence[Port], text: Text) -> Row:
    """The inputs that the graph takes, of a row that the model has room for."""
    length = len(values["input_ids"])
    if length > text.info.max_length:
        raise DataError(f"is {length} tokens long; the model takes {text.info.max_length}. Split it.")
    unknown = next((port.name for port in ports if port.name not in values), None)
    if unknown is not None:
        raise DataError(f"this model also takes {unknown!r}, which no text gives. Give arrays instead.")
    return {port.name: values[port.name] for port in ports}


def _class_index(label: Any, manifest: Manifest) -> int:
    classes = manifest.labels or []
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if type(label) is int and label >= 0 and (not classes or label < len(classes)):
        return label
    known = ", ".join(classes) or "numbers from 0"
    raise DataError(f"label {repr(label)[:80]} is unknown; the model knows {known}.")


#: Who takes text, by task.
_MODELS = {"causal_lm": "language model", "sequence_classification": "classifier"}

_Encode = Callable[[Mapping[str, Any], Manifest, Text], Row]

#: By the keys of a record: the task that it is for, and how it becomes a row.
_ENCODERS: dict[frozenset[str], tuple[str, _Encode]] = {
    frozenset({"text"}): ("causal_lm", _text),
    frozenset({"prompt", "completion"}): ("causal_lm", _completion),
    frozenset({"messages"}): ("causal_lm", _messages),
    frozenset({"text", "label"}): ("sequence_classification", _labelled),
}

#: By loss, for those whose labels are classes: the axis of the logits that has a place for each class.
_CLASS_AXIS = {"causal_lm": -1, "cross_entropy": 1}


def collate(rows: Sequence[Row], ports: Sequence[Port], pad_token_id: int) -> dict[str, Array]:
    """Stacks rows into a batch, padded on the right to the longest along every axis that varies.

    Args:
        rows: The rows.
        ports: The graph's data inputs.
        pad_token_id: What `input_ids` is padded with; labels get -100, everything else 0.
    """
    fill = {"input_ids": pad_token_id, names.LABELS: IGNORED}
    batch: dict[str, Array] = {}
    for port in ports:
        values = [row[port.name] for row in rows]
        longest = np.max([value.shape for value in values], axis=0).astype(int)
        stacked = np.full((len(values), *longest), fill.get(port.name, 0), dtype=port.dtype)
        for index, value in enumerate(values):
            stacked[index, ...][tuple(slice(size) for size in value.shape)] = value
        batch[port.name] = stacked
    return batch


def fingerprint(rows: Sequence[Row]) -> str:
    """A hash of all rows in order, which tells a resumed run that its data is the same."""
    digest = hashlib.sha256()
    for row in rows:
        for name in sorted(row):
            digest.update(f"{name}{row[name].dtype}{row[name].shape}".encode())
            digest.update(np.ascontiguousarray(row[name]).tobytes())
    return digest.hexdigest()
