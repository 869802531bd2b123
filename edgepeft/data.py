"""Rows of data -> batches: reading JSON Lines, encoding text, padding to a batch's longest row."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import limits, names
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
    if isinstance(data, str | os.PathLike):
        source: Iterable[tuple[str, Mapping[str, Any]]] = read_json_lines(Path(data))
        name = str(data)
    else:
        source = ((f"row {index}", record) for index, record in enumerate(data, 1))
        name = "the data"
    rows = [_row(where, record, manifest, text) for where, record in source]
    if not rows:
        raise DataError(f"{name}: has no rows. Expected at least one.")
    return rows


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


def _row(where: str, record: Mapping[str, Any], manifest: Manifest, text: Text | None) -> Row:
    keys = frozenset(record)
    if text is not None and keys in _ENCODERS:
        return _ENCODERS[keys](where, record, manifest, text)
    ports = manifest.data_inputs(names.TRAIN)
    if {port.name for port in ports} <= keys:
        return {port.name: _array(where, record[port.name], port) for port in ports}
    wanted = ", ".join(port.name for port in ports)
    forms = f"{_FORMS}, or the arrays {wanted}" if text is not None else f"the arrays {wanted}"
    raise DataError(f"{where}: has the keys {', '.join(sorted(keys)) or 'none'}; expected {forms}.")


def _array(where: str, value: Any, port: Port) -> Array:
    try:
        array = np.asarray(value, dtype=port.dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {port.name!r} is no {port.dtype} array: {error}.") from error
    if array.ndim != len(port.shape) - 1:
        raise DataError(
            f"{where}: {port.name!r} has shape {list(array.shape)}, expected {port.shape[1:]} a row."
        )
    for want, got in zip(port.shape[1:], array.shape, strict=True):
        if isinstance(want, int) and want != got:
            raise DataError(
                f"{where}: {port.name!r} has shape {list(array.shape)}, expected {port.shape[1:]}."
            )
    return array


def _string(where: str, record: Mapping[str, Any], key: str) -> str:
    if not isinstance(record[key], str) or not record[key]:
        raise DataError(f"{where}: {key!r} is {record[key]!r}; expected a text that is not empty.")
    return str(record[key])


def _text(where: str, record: Mapping[str, Any], manifest: Manifest, text: Text) -> Row:
    return _counted(where, [], text.encode(_string(where, record, "text")), manifest, text)


def _completion(where: str, record: Mapping[str, Any], manifest: Manifest, text: Text) -> Row:
    prompt = text.encode(text.prompt(_string(where, record, "prompt")))
    return _counted(where, prompt, text.encode(_string(where, record, "completion")), manifest, text)


def _messages(where: str, record: Mapping[str, Any], manifest: Manifest, text: Text) -> Row:
    messages = record["messages"]
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError(
            f'{where}: "messages" must be {{"role", "content"}} texts that end with the assistant\'s.'
        )
    prompt = text.encode(text.prompt(messages[:-1]))
    return _counted(where, prompt, text.encode(messages[-1]["content"]), manifest, text)


def _counted(where: str, prompt: list[int], completion: list[int], manifest: Manifest, text: Text) -> Row:
    """A row of a causal language model: the loss counts the completion and the token that ends it."""
    if manifest.task != "causal_lm":
        raise DataError(f"{where}: is for a language model; this bundle's task is {manifest.task}.")
    ids = prompt + completion + text.info.eos_token_ids[:1]
    if len(ids) > text.info.max_length:
        raise DataError(
            f"{where}: is {len(ids)} tokens long; the model takes {text.info.max_length}. Split it."
        )
    labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
    return {
        "input_ids": np.array(ids, dtype=np.int64),
        "attention_mask": np.ones(len(ids), dtype=np.int64),
        names.LABELS: np.array(labels, dtype=np.int64),
    }


def _labelled(where: str, record: Mapping[str, Any], manifest: Manifest, text: Text) -> Row:
    if manifest.task != "sequence_classification":
        raise DataError(f"{where}: is for a classifier; this bundle's task is {manifest.task}.")
    ids = text.encode_sequence(_string(where, record, "text"))
    if len(ids) > text.info.max_length:
        raise DataError(
            f"{where}: is {len(ids)} tokens long; the model takes {text.info.max_length}. Split it."
        )
    values = {
        "input_ids": np.array(ids, dtype=np.int64),
        "attention_mask": np.ones(len(ids), dtype=np.int64),
        "token_type_ids": np.zeros(len(ids), dtype=np.int64),
        names.LABELS: np.array(_class_index(where, record["label"], manifest), dtype=np.int64),
    }
    return {port.name: values[port.name] for port in manifest.data_inputs(names.TRAIN)}


def _class_index(where: str, label: Any, manifest: Manifest) -> int:
    classes = manifest.labels or []
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if type(label) is int and label >= 0 and (not classes or label < len(classes)):
        return label
    raise DataError(
        f"{where}: label {label!r} is unknown; the model knows {', '.join(classes) or 'numbers from 0'}."
    )


_ENCODERS = {
    frozenset({"text"}): _text,
    frozenset({"prompt", "completion"}): _completion,
    frozenset({"messages"}): _messages,
    frozenset({"text", "label"}): _labelled,
}


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
        arrays = [row[port.name] for row in rows]
        longest = np.max([array.shape for array in arrays], axis=0).astype(int)
        stacked = np.full((len(arrays), *longest), fill.get(port.name, 0), dtype=port.dtype)
        for index, array in enumerate(arrays):
            stacked[(index, *(slice(size) for size in array.shape))] = array
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
