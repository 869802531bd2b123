"""What a model says of a few rows, with the adapter that a run began with and with the one that it made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepeft import names
from edgepeft.adapter import Adapter
from edgepeft.data import Dataset, Record
from edgepeft.model import Model
from edgepeft.report.summary import class_name
from edgepeft.tensors import Array
from edgepeft.text import Message

#: Prompts that a language model is asked, twice each, and most tokens of an answer.
MAX_PROMPTS = 8
MAX_ANSWER_TOKENS = 48

#: Prompts among which those are chosen, and most tokens of one.
_MAX_CANDIDATES = 4 * MAX_PROMPTS
_MAX_PROMPT_TOKENS = 512

#: Rows that a classifier is asked, twice each, and those of them that are shown.
MAX_CLASSIFIED = 500
MAX_CHANGED = 8

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Question:
    """A prompt, and the answer that the data has for it."""

    prompt: Prompt
    expected: str


@dataclass(frozen=True)
class Answer:
    """What a language model said before and after."""

    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class ClassAccuracy:
    """How many rows of a class there are, and of how many of them the model says so."""

    name: str
    rows: int
    before: int
    after: int


@dataclass(frozen=True)
class Change:
    """A row that is taken for another class than before."""

    row: str
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Samples:
    """What was found; what does not suit the model's task is empty."""

    answers: Sequence[Answer] = ()
    classes: Sequence[ClassAccuracy] = ()
    changes: Sequence[Change] = ()

    @property
    def classified(self) -> int:
        """Rows that a classifier was asked."""
        return sum(one.rows for one in self.classes)

    @property
    def accuracy(self) -> tuple[float, float]:
        """The share of them that was classified rightly, before and after."""
        rows = self.classified
        return sum(one.before for one in self.classes) / rows, sum(one.after for one in self.classes) / rows


def questions(model: Model, data: Dataset) -> list[Question]:
    """Prompts from all over the data that are not too long; none of what has no prompts."""
    text = model.text
    if model.bundle.manifest.task != "causal_lm" or text is None:
        return []
    most = min(_MAX_PROMPT_TOKENS, text.info.max_length - 1)
    found = [_question(record) for _, record in data.records(_spread(len(data), _MAX_CANDIDATES))]
    fitting = [one for one in found if one is not None and len(text.encode_prompt(one.prompt)) <= most]
    return [fitting[index] for index in _spread(len(fitting), MAX_PROMPTS)]


def ask(
    model: Model,
    asked: Sequence[Question],
    before: Adapter,
    after: Adapter,
    before_question: Callable[[int], None],
) -> list[Answer]:
    """Answers to questions: the likeliest token each time; `before_question` may raise, to end it."""
    answers = []
    for number, question in enumerate(asked):
        before_question(number)
        said = (
            model.generate(question.prompt, max_new_tokens=MAX_ANSWER_TOKENS, adapter=adapter)
            for adapter in (before, after)
        )
        answers.append(Answer(_shown(question.prompt), question.expected, *said))
    return answers


def classify(
    model: Model,
    data: Dataset,
    batch_size: int,
    before: Adapter,
    after: Adapter,
    before_batch: Callable[[], None],
) -> tuple[list[ClassAccuracy], list[Change]]:
    """Accuracy of each class on rows from all over the data, and some rows that are taken for another class now.

    `before_batch` may raise, to end it.
    """
    if model.bundle.manifest.classes is None:
        return [], []
    indices = _spread(len(data), MAX_CLASSIFIED)
    labels, old = _classes(model, data, indices, batch_size, before, before_batch)
    _, new = _classes(model, data, indices, batch_size, after, before_batch)
    accuracies = []
    for label in np.unique(labels[labels >= 0]).tolist():
        rows = labels == label
        right = (int((rows & (found == label)).sum()) for found in (old, new))
        accuracies.append(ClassAccuracy(class_name(label, data), int(rows.sum()), *right))
    differing = np.flatnonzero((old != new) & (labels >= 0))[:MAX_CHANGED].tolist()
    records = data.records([indices[place] for place in differing])
    changes = [
        Change(
            _row(where, record, data), *(class_name(int(kind[place]), data) for kind in (labels, old, new))
        )
        for place, (where, record) in zip(differing, records, strict=True)
    ]
    return accuracies, changes


def _classes(
    model: Model,
    data: Dataset,
    indices: Sequence[int],
    batch_size: int,
    adapter: Adapter,
    before_batch: Callable[[], None],
) -> tuple[Array, Array]:
    """Labels and likeliest classes of some rows, [rows] int64 each."""
    prepared = model.engine.prepare(adapter.tensors)
    labels, found = [], []
    for start in range(0, len(indices), batch_size):
        before_batch()
        rows = [one.row for one in data.read(indices[start : start + batch_size])]
        batch = model.collate(rows, names.INFER)
        logits = model.engine.run(names.INFER, batch, prepared)["logits"]
        found.append(logits[:, : len(data.classes) or None].argmax(1))
        labels.append(np.array([row[names.LABELS] for row in rows]))
    return np.concatenate(labels), np.concatenate(found)


def _question(record: Record) -> Question | None:
    if {"prompt", "completion"} <= record.keys():
        return Question(record["prompt"], record["completion"])
    if "messages" in record:
        *before, answer = record["messages"]
        return Question(before, answer["content"])
    return None


def _shown(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _row(where: str, record: Record, data: Dataset) -> str:
    """A row's text, or its place; folders above the data are nobody's business."""
    if "text" in record:
        return str(record["text"])
    return where.removeprefix(str(Path(data.name).parent)).lstrip("/")


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread."""
    taken = min(count, most)
    return [number * count // taken for number in range(taken)]
