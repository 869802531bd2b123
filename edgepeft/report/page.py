"""The report as a page: facts in, HTML out."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from edgepeft import curves
from edgepeft.arguments import TrainingArguments
from edgepeft.callbacks import StopReason, TrainingResult, held_out_text
from edgepeft.elements import element, html
from edgepeft.manifest import Manifest
from edgepeft.report.samples import Answer, Change, ClassAccuracy, Samples
from edgepeft.report.summary import DataSummary
from edgepeft.units import duration_text, rate_text, size_text

#: What a report begins with.
MARK = b"<!doctype html>\n<!-- a training report of edgepeft -->\n"

#: Characters of a text that are shown, and classes and pauses that a table lists.
MAX_TEXT = 600
MAX_CLASSES = 30
MAX_PAUSES = 30

#: Nothing is fetched and nothing runs, whatever a row of data holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root{color-scheme:light dark;--page:#f6f8fa;--card:#fff;--ink:#1f2328;--soft:#59636e;--rule:#d8dee4;--good:#1a7f37}
@media (prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--ink:#e6edf3;--soft:#9198a1;--rule:#373e47;
--good:#56d364}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:64rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .75rem}
h3{font-size:1rem;margin:0 0 .25rem}p{margin:.25rem 0 .75rem}.soft{color:var(--soft)}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.75rem 1rem;margin:0 0 .75rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.75rem;margin-top:1rem}
.tile{margin:0;padding:.5rem .75rem}.tile b{display:block;font-size:1.1rem;font-variant-numeric:tabular-nums}
.name{color:var(--soft);font-size:.85rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.75rem}
.pair svg{display:block;width:100%;border:1px solid var(--rule);border-radius:6px}
.three{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.5rem 1.5rem}
.said{white-space:pre-wrap;unicode-bidi:isolate;margin:0}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;border-top:1px solid var(--rule)}
thead th{overflow-wrap:normal}thead th,.facts tr:first-child>*{border-top:0}tbody th,.facts th{font-weight:400;color:var(--soft);width:11rem}
td{font-variant-numeric:tabular-nums}.strong>*{font-weight:600;color:var(--ink)}
summary{cursor:pointer;font-weight:600}details>:nth-child(2){margin-top:.5rem}
@media (max-width:30rem){tbody th,.facts th{width:36%}th,td{padding-right:.6rem}}
"""

_ENDINGS: dict[StopReason, str] = {
    "finished": "all its steps are done",
    "early_stopping": "the held-out loss no longer fell",
    "max_seconds": "its time was up",
    "stopped": "it was asked to stop",
}


@dataclass(frozen=True)
class Pause:
    """A time that the run waited, as a guest.

    Attributes:
        step: Updates done before.
        reason: What it waited for.
        seconds: How long.
    """

    step: int
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a report tells.

    Attributes:
        manifest: Of the bundle that was trained.
        arguments: The settings.
        result: What the run gave.
        total_steps: How many steps the run would have had.
        first_step: The first step of this call; above 1 in a run that was resumed.
        seconds: How long the call took, evaluation included.
        train: The training data.
        held_out: The held-out data, if there was any.
        pauses: Times that the run waited.
        samples: Rows before and after; `None` where the run was not kept waiting for them.
        machine: Facts about the machine, by name.
        versions: Versions of what computed, by name.
        finished: When the run ended.
    """

    manifest: Manifest
    arguments: TrainingArguments
    result: TrainingResult
    total_steps: int
    first_step: int
    seconds: float
    train: DataSummary
    held_out: DataSummary | None
    pauses: Sequence[Pause]
    samples: Samples | None
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    finished: dt.datetime


def render(facts: Facts) -> bytes:
    """The page, UTF-8."""
    title = f"Training report: {facts.manifest.model.name}"
    body = element(
        "body",
        element("h1", title),
        element("p", _subtitle(facts), class_="soft"),
        _tiles(facts),
        *_section("Curves", [_curves(facts)]),
        *(_section("Pauses", [_card(_pauses(facts.pauses))]) if facts.pauses else []),
        *_section("Before and after", _samples(facts)),
        *_section("Data", _data(facts)),
        *_section("Settings", [_settings(facts.arguments, facts.manifest.training)]),
        *_section("Model and adapter", [_card(_facts(_model(facts)))]),
        *_section("Machine and versions", [_card(_facts({**facts.machine, **facts.versions}))]),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE + curves.STYLE),
    )
    return MARK + html(element("html", head, body, lang="en")).encode() + b"\n"


def _subtitle(facts: Facts) -> str:
    steps = f"{facts.result.steps:,} of {facts.total_steps:,} steps"
    resumed = f", resumed at step {facts.first_step:,}" if facts.first_step > 1 else ""
    ending = _ENDINGS[facts.result.stop_reason]
    return f"{facts.finished:%Y-%m-%d %H:%M %Z}. The run ended after {steps}{resumed}: {ending}."


def _tiles(facts: Facts) -> Element:
    result = facts.result
    tiles = {
        "held-out loss": held_out_text(result, ".4g", "→"),
        "training loss": _from_to(result.losses[0], result.losses[-1]) if result.losses else None,
        "accuracy": "{:.1%} → {:.1%}".format(*facts.samples.accuracy)
        if facts.samples is not None and facts.samples.classes
        else None,
        "whole run": duration_text(facts.seconds),
        "of it in pauses": duration_text(result.paused_seconds) if facts.pauses else None,
        "a step": duration_text(result.seconds_per_step),
        "rows a second": rate_text(result.samples_per_second),
        "tokens a second": None if result.tokens_per_second is None else rate_text(result.tokens_per_second),
        "peak memory": size_text(result.peak_memory_bytes),
        "rows at once": f"{result.rows_at_once} of {facts.arguments.batch_size}"
        if result.rows_at_once < facts.arguments.batch_size
        else None,
        "adapter": size_text(result.adapter.size),
    }
    shown = [
        element("div", element("span", name, class_="name"), element("b", value), class_="tile")
        for name, value in tiles.items()
        if value is not None
    ]
    return element("div", *shown, class_="tiles")


def _curves(facts: Facts) -> Element:
    result = facts.result
    steps = range(1, result.steps + 1)
    rates = [(step, facts.arguments.settings(step, facts.total_steps).learning_rate) for step in steps]
    losses = [("training", list(zip(steps, result.losses, strict=True)))]
    if result.evaluation_losses:
        losses.append(("held-out", result.evaluation_losses))
    return element(
        "div",
        curves.draw("Loss", losses),
        curves.draw("Learning rate", [("learning rate", rates)]),
        class_="pair",
    )


def _pauses(pauses: Sequence[Pause]) -> Element:
    longest = sorted(pauses, key=lambda one: -one.seconds)[:MAX_PAUSES]
    rows = [
        (f"{one.step:,}", one.reason, duration_text(one.seconds))
        for one in sorted(longest, key=lambda one: one.step)
    ]
    if len(pauses) > MAX_PAUSES:
        rows.append((f"and {len(pauses) - MAX_PAUSES:,} shorter ones", "", ""))
    return _table(("after step", "why", "how long"), rows)


def _samples(facts: Facts) -> list[Element]:
    found = facts.samples
    if found is None:
        return [element("p", "Not asked: the run was asked to stop.", class_="soft")]
    source = "held-out data" if facts.held_out is not None else "training data: there is no held-out data"
    parts: list[Element] = []
    if found.answers:
        parts.append(
            element("p", f"Prompts from the {source}; the likeliest token each time.", class_="soft")
        )
        parts += [_answer(answer) for answer in found.answers]
    if found.classes:
        parts.append(element("p", f"{found.classified:,} rows from the {source}.", class_="soft"))
        parts.append(_card(_classes(found.classes)))
    if found.changes:
        parts.append(element("p", "Rows that are taken for another class than before:", class_="soft"))
        parts.append(_card(_changes(found.changes)))
    return parts or [
        element("p", "Nothing to ask: rows of this kind have no answer in words.", class_="soft")
    ]


def _answer(answer: Answer) -> Element:
    said = {"expected": answer.expected, "before": answer.before, "after": answer.after}
    columns = [
        element("div", element("span", name, class_="name"), _said(text.strip()))
        for name, text in said.items()
    ]
    prompt = element("h3", _clipped(answer.prompt), class_="said", dir="auto")
    return element("div", prompt, element("div", *columns, class_="three"), class_="card")


def _classes(classes: Sequence[ClassAccuracy]) -> Element:
    largest = sorted(classes, key=lambda one: -one.rows)[:MAX_CLASSES]
    rows = [
        (one.name, f"{one.rows:,}", f"{one.before / one.rows:.0%}", f"{one.after / one.rows:.0%}")
        for one in largest
    ]
    if len(classes) > MAX_CLASSES:
        rows.append((f"and {len(classes) - MAX_CLASSES} smaller ones", "", "", ""))
    return _table(("class", "rows", "right before", "right after"), rows)


def _changes(changes: Sequence[Change]) -> Element:
    rows = [(_clipped(one.row), one.label, one.before, one.after) for one in changes]
    return _table(("row", "label", "before", "after"), rows)


def _data(facts: Facts) -> list[Element]:
    parts = [_card(element("h3", "Training"), _summary(facts.train, facts.result.truncated_rows))]
    if facts.held_out is not None:
        parts.append(_card(element("h3", "Held-out"), _summary(facts.held_out, facts.held_out.truncated)))
    return [element("div", *parts, class_="pair")]


def _summary(data: DataSummary, truncated: int) -> Element:
    part = f" in the first {data.looked_at:,}" if data.looked_at < data.rows else ""
    largest = list(data.classes.items())[:MAX_CLASSES]
    more = f", and {len(data.classes) - MAX_CLASSES} smaller ones" if len(data.classes) > MAX_CLASSES else ""
    rows = {"source": Path(data.name).name, "rows": f"{data.rows:,}"}
    if data.length:
        rows |= {"tokens": f"{data.length:,}{part}", "longest row": f"{data.longest:,} tokens{part}"}
        rows["rows cut"] = f"{truncated:,}"
    if data.classes:
        rows["classes"] = ", ".join(f"{name} {count:,}" for name, count in largest) + more + part
    return _facts(rows | {"SHA-256": data.sha256})


def _settings(arguments: TrainingArguments, recommended: Mapping[str, Any]) -> Element:
    """All settings, those first that differ from what the bundle recommends, or else from the library's defaults."""
    defaults = dataclasses.asdict(TrainingArguments()) | dict(recommended)
    given = dataclasses.asdict(arguments)
    changed = [name for name, value in given.items() if value != defaults[name]]
    order = [*changed, *(name for name in given if name not in changed)]
    rows = [(name, _setting(given[name]), _setting(defaults[name])) for name in order]
    table = _table(("setting", "value", "by default"), rows, strong=len(changed))
    told = ", ".join(f"{name} {_setting(given[name])}" for name in changed) or "the defaults"
    return element("details", element("summary", told), table, class_="card")


def _model(facts: Facts) -> dict[str, str]:
    model, adapter = facts.manifest.model, facts.result.adapter
    return {
        "model": f"{model.name}, {model.architecture}, {model.parameters:,} parameters",
        "task": facts.manifest.task,
        "adapter": facts.manifest.adapter.peft_type or "not of PEFT",
        "adapter size": f"{sum(value.size for value in adapter.tensors.values()):,} parameters, {size_text(adapter.size)}",
        "time in updates": duration_text(facts.result.seconds),
        "base id": facts.manifest.base_id,
    }


def _section(title: str, parts: Iterable[Element]) -> list[Element]:
    return [element("h2", title), *parts]


def _card(*parts: Element) -> Element:
    return element("div", *parts, class_="card")


def _facts(rows: Mapping[str, str]) -> Element:
    lines = [
        element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows.items()
    ]
    return element("table", *lines, class_="facts")


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], strong: int = 0) -> Element:
    """A table whose first lines, so many, stand out."""
    lines = [
        element(
            "tr",
            element("th", first, scope="row", dir="auto"),
            *(element("td", value, dir="auto") for value in rest),
            class_="strong" if number < strong else "",
        )
        for number, (first, *rest) in enumerate(rows)
    ]
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in names)))
    return element("table", head, element("tbody", *lines))


def _said(text: str) -> Element:
    return element("p", _clipped(text) or "(nothing)", class_="said", dir="auto")


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _setting(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _from_to(first: float, last: float) -> str:
    return f"{first:.4g} → {last:.4g}"
