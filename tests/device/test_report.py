"""The report of a run: what it tells, that it needs nothing from elsewhere, and that text stays text."""

import hashlib
import json
import re
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_machine import hot
from PIL import Image

import edgepeft
from edgepeft import cli, elements, estimate, limits, names
from edgepeft.engines.base import StepResult
from edgepeft.errors import EngineError, StorageError
from edgepeft.estimate import MemoryEstimate
from edgepeft.memory import Resident
from edgepeft.report import page, samples, summary

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp; \u202e"

#: Attributes by which a page can fetch something or go somewhere, or run something.
REFERENCES = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href"}

Rows = list[dict[str, str]]


class Page(HTMLParser):
    """A report, read by a parser that is not ours."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["style"]:
            self.style += data
        self.text.append(data)

    def after(self, name: str) -> str:
        """The text that follows a name."""
        return self.text[self.text.index(name) + 1]


def check_self_contained(read: Page) -> None:
    """Nothing is fetched, nothing runs, nothing leads away."""
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"} & set(read.tags)
    named = {name for name, _ in read.attributes}
    assert not REFERENCES & named
    assert not [name for name in named if name.startswith("on")]
    styles = read.style + " ".join(value or "" for name, value in read.attributes if name == "style")
    assert "url(" not in styles
    assert "@import" not in styles
    assert "@font-face" not in styles
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


@pytest.fixture
def report(tmp_path: Path, handmade: Path) -> Callable[..., Page]:
    """Trains one of the small bundles, and reads the report."""

    def run(bundle: str, rows: object, held_out: object = None, **settings: object) -> Page:
        model = edgepeft.load(handmade / bundle)
        chosen = {"max_steps": 3, "learning_rate": 0.1} | settings
        trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(**chosen))
        trainer.fit(rows, held_out, callbacks=[edgepeft.HtmlReport(tmp_path / "report.html", trainer)])
        return Page(tmp_path / "report.html")

    return run


def chat_rows(count: int = 3) -> Rows:
    return [{"prompt": f"who is {'abcdefghijkl'[i]}?", "completion": "me."} for i in range(count)]


def test_a_report_needs_nothing_from_elsewhere(report: Callable[..., Page]) -> None:
    """Read by another parser: curves inline, for the phone and the dark, and no reference at all."""
    read = report("chat", chat_rows(), chat_rows(2))
    check_self_contained(read)
    assert read.tags.count("svg") == 2
    assert "prefers-color-scheme:dark" in read.style
    assert ("name", "viewport") in read.attributes


def test_text_from_outside_stays_text(tmp_path: Path, handmade: Path) -> None:
    """Rows and file names that hold HTML are shown as they are."""
    data = tmp_path / "<img src=x onerror=alert(1)>.jsonl"
    row = {"prompt": HOSTILE[:40], "completion": HOSTILE[:10]}
    data.write_text(
        json.dumps(row)
        + "\n"
        + json.dumps(
            {"messages": [{"role": "user", "content": "<b>hi"}, {"role": "assistant", "content": "</p>me"}]}
        )
        + "\n"
    )
    model = edgepeft.load(handmade / "chat")
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1, max_length=48))
    trainer.fit(data, callbacks=[edgepeft.HtmlReport(tmp_path / "report.html", trainer)])
    read = Page(tmp_path / "report.html")
    check_self_contained(read)
    assert {row["prompt"], row["completion"], "user: <b>hi", "</p>me", data.name} <= set(read.text)


def test_what_a_language_model_said_before_and_after(handmade: Path, tmp_path: Path) -> None:
    """The answers are those of the adapter before the run and of the one that it made."""
    model = edgepeft.load(handmade / "chat")
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=30, learning_rate=0.1))
    written = edgepeft.HtmlReport(tmp_path / "report.html", trainer)
    result = trainer.fit(chat_rows(12), chat_rows(12), callbacks=[written])
    read = Page(tmp_path / "report.html")
    prompts = [row["prompt"] for row in chat_rows(12) if row["prompt"] in read.text]
    assert len(prompts) == samples.MAX_PROMPTS
    for prompt in prompts:
        place = read.text.index(prompt)
        for offset, adapter in ((4, model.bundle.initial_adapter()), (6, result.adapter)):
            said = model.generate(prompt, max_new_tokens=samples.MAX_ANSWER_TOKENS, adapter=adapter).strip()
            assert read.text[place + offset] == (said or "(nothing)")
        assert read.text[place + 2] == "me."


def test_how_a_classifier_did_before_and_after(report: Callable[..., Page], handmade: Path) -> None:
    """Accuracy over all is the model's own; each class has its share; changed rows are shown."""
    rows = [
        {"text": text, "label": label} for text, label in (("hello", "red"), ("me", "blue"), ("who", "red"))
    ]
    before = edgepeft.load(handmade / "classifier").evaluate(rows)["accuracy"]
    read = report("classifier", rows, rows, max_steps=80)
    assert read.after("accuracy") == f"{before:.1%} → 100.0%"
    assert before < 1
    place = read.text.index("right after")
    assert read.text[place + 1 : place + 5][::3] == ["red", "100%"]
    changed = read.text.index("Rows that are taken for another class than before:")
    assert set(read.text[changed:]) & {row["text"] for row in rows}
    assert read.after("classes") == "red 2, blue 1"


def test_images_are_told_by_their_place_in_the_folder(bundles: Path, tmp_path: Path) -> None:
    """Not by where the folder lies; classes without names by their numbers."""
    for number in range(4):
        path = tmp_path / "images" / str(number) / f"{number}.png"
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 8), 60 * number).save(path)
    trainer = edgepeft.Trainer(
        edgepeft.load(bundles / "conv-net"), edgepeft.TrainingArguments(learning_rate=0.1, max_steps=20)
    )
    report = tmp_path / "report.html"
    trainer.fit(tmp_path / "images", callbacks=[edgepeft.HtmlReport(report, trainer)])
    text = Page(report).text
    changed = text.index("Rows that are taken for another class than before:")
    assert {"images/1/1.png", "images/2/2.png", "images/3/3.png"} & set(text[changed:])
    assert str(tmp_path) not in report.read_text()


def test_rows_without_answers_in_words(report: Callable[..., Page]) -> None:
    """A regression has its curves and its settings."""
    rows = {"x": np.ones((4, 3), np.float32), "target": np.ones((4, 32), np.float32)}
    read = report("regression", rows, rows)
    assert any(text.startswith("Nothing to ask") for text in read.text)
    assert "tokens a second" not in read.text
    assert read.after("rows") == "4"


def test_what_a_run_was(report: Callable[..., Page]) -> None:
    """Settings that were chosen come first; losses, data, base and versions are those of the run."""
    read = report("chat", chat_rows(), seed=7)
    assert "learning_rate 0.1, epochs not set, max_steps 3, seed 7" in read.text
    names = [text for text in read.text if text in {"learning_rate", "seed", "optimizer", "momentum"}]
    assert names == ["learning_rate", "seed", "optimizer", "momentum"]
    assert "The run ended after 3 of 3 steps: all its steps are done." in " ".join(read.text)
    assert read.after("source") == "the data"
    assert read.after("numpy") == np.__version__
    assert len(read.after("base id")) == 64
    assert any("there is no held-out data" in text for text in read.text)


def test_numbers_are_told_as_people_read_them(report: Callable[..., Page]) -> None:
    """No power of ten, no MiB beside MB."""
    read = report("chat", chat_rows(9) * 50, batch_size=400)
    assert re.fullmatch(r"[\d,.]+ MB", read.after("peak memory"))
    assert re.fullmatch(r"[\d,.]+", read.after("rows a second"))
    assert read.after("memory").endswith((" MB", " GB"))


def test_the_file_is_fingerprinted(report: Callable[..., Page], tmp_path: Path) -> None:
    """So that `sha256sum` tells whether it is the same; only its name is told, not where it lies."""
    data = tmp_path / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in chat_rows()))
    read = report("chat", data)
    assert read.after("SHA-256") == hashlib.sha256(data.read_bytes()).hexdigest()
    assert read.after("source") == "facts.jsonl"
    assert str(tmp_path) not in (tmp_path / "report.html").read_text()


def test_long_data_is_looked_at_in_part(
    report: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data that streams only the first rows are encoded, and the report says so."""
    monkeypatch.setattr(limits, "MAX_HELD_FILE_BYTES", 0)
    monkeypatch.setattr(summary, "MAX_ROWS", 5)
    data = tmp_path / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)))
    read = report("chat", data)
    assert read.after("rows") == "12"
    assert read.after("tokens").endswith(" in the first 5")


def test_long_texts_are_clipped() -> None:
    """A row that fills pages does not."""
    assert len(page._clipped("x" * 10_000)) < page.MAX_TEXT + 10


def test_no_document_holds_what_it_may_not() -> None:
    """Control characters and halves of pairs, from a file name for example, are replaced."""
    text = elements.html(elements.element("p", "a\x00b\x1b[31m\ud800\r\nc", title="\x00"))
    assert text == '<p title="\ufffd">a\ufffdb\ufffd[31m\ufffd\nc</p>'


class Stops(edgepeft.Callback):
    """In the place of the progress: a signal after the second step."""

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        if step == 2:
            signal.raise_signal(signal.SIGTERM)


def train(handmade: Path, data: Path, *options: object) -> Result:
    fixed = ["train", handmade / "chat", "--data", data, "--max-steps", 5]
    return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows()))
    return path


def test_a_run_that_a_signal_stops_has_a_report(
    handmade: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its curves so far; nothing is asked, since somebody waits. Resumed, it tells of both parts."""
    monkeypatch.setattr("edgepeft.cli.commands.progress", lambda _, **__: Stops())
    path = tmp_path / "report.html"
    options = ["--output", tmp_path / "alice", "--report", path, "--checkpoint-dir", tmp_path / "run"]
    assert train(handmade, data, *options).exit_code == 1
    read = Page(path)
    assert "2 of 5 steps: it was asked to stop." in " ".join(read.text)
    assert "Not asked: the run was asked to stop." in read.text
    monkeypatch.setattr("edgepeft.cli.commands.progress", lambda _, **__: edgepeft.Callback())
    done = train(handmade, data, *options, "--resume")
    assert done.exit_code == 0
    assert done.stdout.endswith(f"; see {path}\n")
    assert "asking 3 prompts under both adapters, for the report" in done.stderr
    assert "5 of 5 steps, resumed at step 3: all its steps are done." in " ".join(Page(path).text)
    assert chat_rows()[0]["prompt"] in Page(path).text


def test_the_command_says_where_the_report_is(handmade: Path, data: Path, tmp_path: Path) -> None:
    """For a script too."""
    path = tmp_path / "new" / "report.html"
    done = train(handmade, data, "--output", tmp_path / "alice", "--report", path, "--json")
    assert json.loads(done.stdout)["report"] == str(path)
    assert path.read_bytes().startswith(page.MARK)
    assert "report" in json.loads(train(handmade, data, "--output", tmp_path / "alice", "--json").stdout)


@pytest.mark.parametrize("name", ["facts.jsonl", "alice/report.html"])
def test_a_report_takes_no_other_files_place(handmade: Path, data: Path, tmp_path: Path, name: str) -> None:
    """Named by mistake, the data is not overwritten; the adapter's folder holds the adapter alone."""
    before = data.read_bytes()
    options = ["--output", tmp_path / "alice", "--report", tmp_path / name, "--log", tmp_path / "log.jsonl"]
    done = train(handmade, data, *options)
    assert done.exit_code in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert "Choose another" in done.stderr
    assert data.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.jsonl"]


def test_a_place_that_cannot_be_written_is_refused_at_once(handmade: Path, tmp_path: Path) -> None:
    """Before the time is spent."""
    (tmp_path / "file").write_text("")
    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), edgepeft.TrainingArguments())
    with pytest.raises(StorageError):
        edgepeft.HtmlReport(tmp_path / "file" / "report.html", trainer)
    with pytest.raises(StorageError, match="no training report"):
        edgepeft.HtmlReport(tmp_path, trainer)


def test_a_run_that_fails_leaves_the_report_before(handmade: Path, tmp_path: Path) -> None:
    """There is nothing to tell of."""
    path = tmp_path / "report.html"
    path.write_bytes(page.MARK)

    class Fails(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            raise EngineError(f"step {step} failed after a loss of {result.loss}.")

    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), edgepeft.TrainingArguments(max_steps=3))
    with pytest.raises(EngineError):
        trainer.fit(chat_rows(), callbacks=[Fails(), edgepeft.HtmlReport(path, trainer)])
    assert path.read_bytes() == page.MARK


@pytest.mark.parametrize(("bundle", "batches"), [("chat", 0), ("sensor", 2)])
def test_samples_are_left_out_when_the_end_is_wanted(
    handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: str, batches: int
) -> None:
    """Asked to stop while the model is asked, the report is written without the answers."""
    rows = {"chat": chat_rows(5), "sensor": {"x": np.eye(3, dtype=np.float32), "labels": np.arange(3)}}[
        bundle
    ]
    trainer = edgepeft.Trainer(
        edgepeft.load(handmade / bundle), edgepeft.TrainingArguments(max_steps=2, batch_size=1)
    )
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line == "asked 1 of 5 prompts":
            trainer.stop()

    run, asked = trainer.model.engine.run, []

    def counted(graph: str, *rest: object) -> object:
        if graph == names.INFER and bundle == "sensor":
            asked.append(graph)
            if len(asked) == batches:
                trainer.stop()
        return run(graph, *rest)

    monkeypatch.setattr(trainer.model.engine, "run", counted)
    path = tmp_path / "report.html"
    result = trainer.fit(rows, callbacks=[edgepeft.HtmlReport(path, trainer, tell=tell)])
    assert result.stop_reason == "finished"
    assert "Not asked: the run was asked to stop." in Page(path).text
    assert len(asked) == batches
    assert told[1:] == ["asked 1 of 5 prompts"] * (bundle == "chat")


def test_the_default_is_what_the_bundle_recommends(report: Callable[..., Page]) -> None:
    """What a run without that option would have used."""
    rows = {"x": np.eye(3, dtype=np.float32), "target": np.zeros((3, 32), np.float32)}
    read = report("regression", rows, learning_rate=0.01)
    place = read.text.index("learning_rate")
    assert read.text[place : place + 3] == ["learning_rate", "0.01", "0.01"]
    assert "learning_rate 0.01" not in " ".join(read.text[:place])


def test_a_swap_meanwhile_is_not_reported(
    tmp_path: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is what the run began with and what it made, whatever the model was told to use."""
    model = edgepeft.load(handmade / "chat")
    began, other = model.adapter, model.bundle.initial_adapter()
    asked: list[edgepeft.Adapter] = []

    class Swaps(edgepeft.Callback):
        def on_data(self, *_: object) -> None:
            model.use(other)

    def noted(_: object, __: object, before: edgepeft.Adapter, after: edgepeft.Adapter, ___: object) -> list:
        asked.extend([before, after])
        return []

    monkeypatch.setattr(samples, "ask", noted)
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1))
    written = edgepeft.HtmlReport(tmp_path / "report.html", trainer)
    result = trainer.fit(chat_rows(), callbacks=[Swaps(), written])
    assert asked[0] is trainer.began_with is began
    assert asked[1] is result.adapter


def test_a_guest_that_waited(handmade: Path, tmp_path: Path) -> None:
    """The pauses with their reasons, and how much of the run they were; a run without any has no such part."""
    root = tmp_path / "machine"
    hot(root, 99)

    class Cooler(edgepeft.Callback):
        def on_pause(self, step: int, reason: str) -> None:
            del step, reason
            hot(root, 20)

    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), edgepeft.TrainingArguments(max_steps=2))
    report = edgepeft.HtmlReport(tmp_path / "report.html", trainer)
    rows = [{"text": "hello there."}]
    trainer.fit(rows, callbacks=[report, Cooler()], guest=edgepeft.Guest(root=root))
    read = Page(tmp_path / "report.html")
    assert read.after("how long") == "0"  # steps before it
    assert "too hot: 99.0 °C, at most 95 °C, on again at 90 °C" in read.text
    assert re.fullmatch(r"[\d.]+ m?s", read.after("of it in pauses"))
    assert "rows at once" not in read.text
    trainer.fit(rows, callbacks=[report], guest=edgepeft.Guest(root=root))
    assert "of it in pauses" not in (again := Page(tmp_path / "report.html").text)
    assert "Pauses" not in again


def test_a_run_in_parts(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows were run at once."""
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(0, 0))
    model = edgepeft.load(bundles / "tiny-llama")
    ids = np.ones((8, 100), np.int64)
    found = estimate.training_memory(model.bundle.manifest, 4, 100, engine=model.engine.name)
    assert found is not None
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1, batch_size=8))
    report = edgepeft.HtmlReport(tmp_path / "report.html", trainer)
    columns = {"input_ids": ids, "attention_mask": ids, "labels": ids}
    trainer.fit(columns, callbacks=[report], guest=edgepeft.Guest(max_memory=int(found.total) + 1))
    assert Page(tmp_path / "report.html").after("rows at once") == "4 of 8"


def test_the_report_is_a_guest_too(handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its questions it waits while the machine is unwell, and asks as many rows at once as were trained on."""
    root = tmp_path / "machine"
    hot(root, 20)
    sizes: list[int] = []
    collate = edgepeft.Model.collate

    def watched(self: edgepeft.Model, rows: list[Any], *rest: Any) -> Any:
        sizes.append(len(rows))
        return collate(self, rows, *rest)

    class Weather(edgepeft.Callback):
        def __init__(self) -> None:
            self.told: list[str] = []

        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            if step == 2:
                hot(root, 99)
                sizes.clear()

        def on_pause(self, step: int, reason: str) -> None:
            self.told.append(f"{step} {reason}")
            hot(root, 20)

    monkeypatch.setattr(edgepeft.Model, "collate", watched)
    monkeypatch.setattr(
        "edgepeft.guest.estimate.training_memory",
        lambda _, rows, *__: MemoryEstimate(0, 0, 0, 0, 0, activations=rows * 1e12),
    )
    trainer = edgepeft.Trainer(
        edgepeft.load(handmade / "classifier"), edgepeft.TrainingArguments(max_steps=2, batch_size=4)
    )
    weather, report = Weather(), edgepeft.HtmlReport(tmp_path / "report.html", trainer)
    rows = [{"text": "hello there.", "label": label} for label in trainer.model.labels or ()] * 4
    guest = edgepeft.Guest(root=root, max_memory=25 * 10**11)
    trainer.fit(rows, callbacks=[report, weather], guest=guest)
    assert [line[:15] for line in weather.told] == ["2 too hot: 99.0"]
    assert max(sizes) == 2
    trainer.wait_until_well()  # of no effect outside of a run


def test_only_the_longest_pauses_are_listed(
    handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they were; the others are counted."""
    monkeypatch.setattr(page, "MAX_PAUSES", 2)
    seconds = [5.0, 1.0, 9.0, 2.0]
    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), edgepeft.TrainingArguments(max_steps=4))
    report = edgepeft.HtmlReport(tmp_path / "report.html", trainer)

    class Waiting(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            report.on_pause(step, "too hot")
            report.on_resume(step, seconds[step - 1])

    trainer.fit([{"text": "hello there."}], callbacks=[Waiting(), report])
    told = Page(tmp_path / "report.html").text
    start = told.index("how long") + 1
    shown = ["1", "too hot", "5 s", "3", "too hot", "9 s", "and 2 shorter ones"]
    assert told[start : start + 7] == shown
