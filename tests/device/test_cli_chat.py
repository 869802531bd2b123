"""`edgepeft chat` and how `edgepeft generate` shows an answer."""

import dataclasses
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgepeft
from edgepeft.cli import main
from edgepeft.cli.chat import Conversation, fitting, lines


def run(*arguments: object, said: str | None = None) -> Result:
    """Runs the program in this process; a pipe holds what is said."""
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments], prog_name="edgepeft", input=said
    )


@dataclasses.dataclass
class Asked:
    """What a model was asked: the messages, under which adapter, with which settings."""

    messages: list[dict[str, str]]
    adapter: edgepeft.Adapter
    settings: dict[str, Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Has every model say "answer 1", "answer 2" and so on, once it has checked what it is asked."""
    calls: list[Asked] = []
    stream = edgepeft.Model.stream

    def answered(model: edgepeft.Model, messages: list, **settings: Any) -> Iterator[str]:
        stream(model, messages, **settings)

        def pieces() -> Iterator[str]:
            calls.append(Asked(messages, model.adapter, settings))
            yield from ("answer ", str(len(calls)))

        return pieces()

    monkeypatch.setattr(edgepeft.Model, "stream", answered)
    return calls


def turns(*texts: str) -> list[dict[str, str]]:
    """What the user and the assistant said in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def other(model: Path, folder: Path) -> Path:
    """The folder of another adapter for a model."""
    adapter = edgepeft.Bundle.open(model).initial_adapter()
    tensors = {name: value + np.float32(0.5) for name, value in adapter.tensors.items()}
    dataclasses.replace(adapter, tensors=tensors).save(folder / "other")
    return folder / "other"


def test_a_conversation_with_a_model(bundles: Path) -> None:
    """What is printed is what the model says, without what would steer a terminal."""
    expected = edgepeft.load(bundles / "tiny-llama").generate(
        turns("hello"), max_new_tokens=12, temperature=3
    )
    done = run("chat", bundles / "tiny-llama", "--max-new-tokens", 12, "--temperature", 3, said="hello\n")
    assert (done.exit_code, done.stderr) == (0, "")
    steers = {*range(32), *range(127, 160)} - {9, 10}
    assert done.stdout == "".join("?" if ord(letter) in steers else letter for letter in expected) + "\n"


def test_what_was_said_is_remembered(bundles: Path, asked: list[Asked]) -> None:
    """Blank lines say nothing; the end of the pipe ends the program, also in the middle of a line."""
    options = ["--max-new-tokens", 4, "--stop", "x", "--stop", "y", "--repetition-penalty", 1.5, "--seed", 3]
    done = run("chat", bundles / "tiny-llama", *options, said="hello\n\n  \n and you")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "answer 1\nanswer 2\n", "")
    assert [call.messages for call in asked] == [turns("hello"), turns("hello", "answer 1", "and you")]
    settings = {"temperature": 0.0, "top_k": None, "top_p": None, "max_new_tokens": 4, "seed": 3}
    assert asked[0].settings == settings | {"stop": ("x", "y"), "repetition_penalty": 1.5}


def test_commands(bundles: Path, tmp_path: Path, asked: list[Asked]) -> None:
    """/adapter swaps and goes back without forgetting, /reset forgets, /quit ends, anything else is told."""
    folder = other(bundles / "tiny-llama", tmp_path)
    lines = [
        "one",
        f"/adapter {folder}",
        "two",
        "/adapter",
        "three",
        "/reset",
        "four",
        "/rest",
        "/quit",
        "five",
    ]
    done = run("chat", bundles / "tiny-llama", "--max-new-tokens", 8, said="\n".join(lines))
    assert done.exit_code == 1, "a line was refused, and /quit ends as the end of the pipe does"
    assert [len(call.messages) for call in asked] == [1, 3, 5, 1]
    assert asked[3].messages == turns("four")
    first, swapped, back, _ = (call.adapter for call in asked)
    assert first is not swapped
    loaded = edgepeft.Adapter.load(folder)
    assert all(np.array_equal(value, swapped.tensors[name]) for name, value in loaded.tensors.items())
    assert all(np.array_equal(value, back.tensors[name]) for name, value in first.tensors.items())
    told = done.stderr.splitlines()
    assert told[:3] == [f"(adapter {folder})", "(adapter of the bundle)", "(forgotten)"]
    assert told[3].startswith("Error: no command '/rest'. /adapter FOLDER swaps")
    assert len(told) == 4


def test_an_adapter_from_the_start(bundles: Path, tmp_path: Path, asked: list[Asked]) -> None:
    """--adapter is what the conversation begins with."""
    folder = other(bundles / "tiny-llama", tmp_path)
    run("chat", bundles / "tiny-llama", "--adapter", folder, said="hello\n")
    loaded = edgepeft.Adapter.load(folder)
    assert all(
        np.array_equal(value, asked[0].adapter.tensors[name]) for name, value in loaded.tensors.items()
    )


def test_a_refused_adapter_is_told(bundles: Path, tmp_path: Path, asked: list[Asked]) -> None:
    """In a line; the conversation goes on with the old one."""
    done = run("chat", bundles / "tiny-llama", said=f"one\n/adapter {tmp_path}/none\ntwo\n")
    assert (done.exit_code, done.stdout) == (1, "answer 1\nanswer 2\n")
    assert asked[1].adapter is asked[0].adapter
    assert len(asked[1].messages) == 3
    assert done.stderr.startswith(f"Error: {tmp_path}/none")
    assert done.stderr.count("\n") == 1


def test_the_home_of_nobody(bundles: Path, asked: list[Asked]) -> None:
    """A ~ that stands for nothing ends no conversation."""
    done = run("chat", bundles / "tiny-llama", said="one\n/adapter ~nosuchuser/x\ntwo\n")
    assert (done.exit_code, len(asked)) == (1, 2)
    assert done.stderr.startswith("Error: ")


def test_history_is_cut_where_the_model_ends(bundles: Path, asked: list[Asked]) -> None:
    """The oldest questions go, with their answers, and that is told; what is left is what the model is asked."""
    question = "x" * 30  # about 40 tokens with the template's; there are 128 places
    done = run("chat", bundles / "tiny-llama", "--max-new-tokens", 8, said=f"{question}\n" * 3)
    assert (done.exit_code, done.stdout) == (0, "answer 1\nanswer 2\nanswer 3\n")
    assert asked[1].messages == turns(question, "answer 1", question)
    assert asked[2].messages == turns(question, "answer 2", question)
    assert done.stderr == "(2 earlier messages are left out: the model has room for 128 tokens)\n"


def test_a_message_that_is_too_long(bundles: Path, asked: list[Asked]) -> None:
    """Told, and forgotten: the next one goes on as if it had not been said."""
    done = run("chat", bundles / "tiny-llama", said=f"one\n{'x' * 200}\ntwo\n")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the prompt is ")
    assert done.stderr.count("\n") == 1
    assert asked[1].messages == turns("one", "answer 1", "two")


def test_what_fits() -> None:
    """Turns go in pairs, from the oldest; the question that is asked stays, however long it is."""
    said = turns("a", "bb", "c", "dd", "eeeee")

    def tokens(messages: list[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in messages)

    kept = {room: fitting(said, tokens, room) for room in (11, 10, 8, 7, 1)}
    assert kept == {11: said, 10: said[2:], 8: said[2:], 7: said[4:], 1: said[4:]}


def test_ctrl_c_stops_an_answer(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said until then stays said, and the conversation goes on."""
    model = edgepeft.load(bundles / "tiny-llama")

    def interrupted(*_: Any, **__: Any) -> Iterator[str]:
        yield "I was about"
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "stream", interrupted)
    conversation = Conversation(model, {"max_new_tokens": 4})
    conversation.say("hello")
    assert conversation.messages == turns("hello", "I was about")


def test_ctrl_c_at_the_prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Drops the line and says what ends the conversation, which it does not."""
    typed: Iterator[str | type[BaseException]] = iter(
        ["one", KeyboardInterrupt, KeyboardInterrupt, "two", EOFError]
    )

    def answer(_: str) -> str:
        what = next(typed)
        if isinstance(what, str):
            return what
        raise what

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert list(lines()) == ["one", "two"]
    assert capsys.readouterr().err == "\n(/quit or Ctrl-D ends)\n" * 2


def test_a_terminal(bundles: Path) -> None:
    """There is a prompt and a hint; the end of input ends the program."""
    ours, theirs = pty.openpty()
    program = "from edgepeft.cli import main; main(prog_name='edgepeft')"
    command = [sys.executable, "-c", program, "chat", str(bundles / "tiny-llama"), "--max-new-tokens", "4"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    for expected, typed in ((b"Ctrl-D ends.\r\n", b""), (b"> ", b"hello\n"), (b"> ", b"\x04")):
        while expected not in seen:
            seen += os.read(ours, 4096)
        seen = seen.partition(expected)[2]
        os.write(ours, typed)
    assert process.wait(60) == 0
    os.close(ours)


@pytest.mark.parametrize(
    ("bundle", "arguments", "code", "words"),
    [
        ("tiny-llama", ["--top-p", "2"], 2, "--top-p is 2.0; expected"),
        ("tiny-llama", ["--stop", ""], 2, "stop is ('',); expected"),
        ("tiny-llama", ["--adapter", "{tmp}"], 1, "adapter_config.json"),
        ("tiny-llama", ["--sead", "1"], 2, "--seed"),
        ("tiny-bert", [], 2, "is no language model, its task is sequence_classification; use predict."),
        ("conv-net", [], 2, "is no language model, its task is sequence_classification; use predict."),
    ],
)
def test_wrong_uses(
    bundles: Path, tmp_path: Path, bundle: str, arguments: list[str], code: int, words: str
) -> None:
    """Told before anything is typed, in one line."""
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    done = run("chat", bundles / bundle, *given, said="")
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_generates_and_has_no_chat_template(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate` takes it."""
    monkeypatch.setattr(edgepeft.text.Text, "has_chat_template", False)
    done = run("chat", bundles / "tiny-llama", said="")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "its model has no chat template; use generate." in done.stderr


def test_generate_with_another_model(bundles: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the command for it; where there is none in words, what is missing."""
    done = run("generate", bundles / "tiny-bert", "--prompt", "hi")
    assert done.exit_code == 2
    assert "is no language model, its task is sequence_classification; use predict." in done.stderr
    monkeypatch.setattr(edgepeft.Model, "text", None)
    done = run("generate", handmade / "chat", "--prompt", "hi")
    assert done.exit_code == 2
    assert "has no tokenizer, so it cannot be asked in words. Export it with one." in done.stderr


def test_quit_without_a_refused_line(bundles: Path, asked: list[Asked]) -> None:
    """Is a success."""
    assert run("chat", bundles / "tiny-llama", said="one\n/quit\n").exit_code == 0
    assert len(asked) == 1


def test_generate_hands_its_options_on(bundles: Path, asked: list[Asked]) -> None:
    """--stop may be given several times; the penalty's default is none."""
    common = ["generate", bundles / "tiny-llama", "--prompt", "hi", "--json"]
    assert json.loads(run(*common).stdout) == {"prompt": "hi", "text": "answer 1"}
    run(*common, "--stop", "a", "--stop", "b", "--repetition-penalty", 1.5, "--max-new-tokens", 9)
    defaults = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}
    one = {"stop": (), "repetition_penalty": 1.0, "max_new_tokens": 64}
    two = {"stop": ("a", "b"), "repetition_penalty": 1.5, "max_new_tokens": 9}
    assert [call.settings for call in asked] == [defaults | one, defaults | two]


@pytest.mark.parametrize("option", ["--stream", "--no-stream", None])
def test_generate_prints_pieces(handmade: Path, monkeypatch: pytest.MonkeyPatch, option: str | None) -> None:
    """The same text either way, safe for a terminal; JSON has it as it is."""
    monkeypatch.setattr(edgepeft.Model, "stream", lambda *_, **__: iter(["a\tb", "\x1b[2J", "c\n"]))
    common = ["generate", handmade / "chat", "--prompt", "hi"]
    assert run(*common, *([option] if option else [])).stdout == "a\tb?[2Jc\n\n"
    assert json.loads(run(*common, "--json").stdout)["text"] == "a\tb\x1b[2Jc\n"


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_generate_streams(handmade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is out before the next one is computed, where it is asked to, and on a terminal unless asked not to."""
    printed: list[str] = []
    before: list[int] = []

    def pieces(*_: Any, **__: Any) -> Iterator[str]:
        for piece in "abc":
            before.append(len(printed))
            yield piece

    monkeypatch.setattr(edgepeft.Model, "stream", pieces)
    monkeypatch.setattr("click.echo", lambda text="", **_: printed.append(text))
    command = ["generate", str(handmade / "chat"), "--prompt", "hi"]
    run(*command, "--stream")
    run(*command)
    monkeypatch.setattr(sys, "stdout", Terminal())
    main(command, standalone_mode=False)
    main([*command, "--no-stream"], standalone_mode=False)
    one_by_one, at_once = ["a", "b", "c", ""], ["abc", ""]
    assert printed == one_by_one + at_once + one_by_one + at_once
    assert before == [0, 1, 2, 4, 4, 4, 6, 7, 8, 10, 10, 10]


def test_streaming_json_is_wrong_use(handmade: Path) -> None:
    """An object is printed whole."""
    done = run("generate", handmade / "chat", "--prompt", "hi", "--stream", "--json")
    assert done.exit_code == 2
    assert "--stream and --json exclude each other" in done.stderr


def test_an_empty_answer_is_not_remembered(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn without words would be what the model is shown next."""
    conversation = Conversation(edgepeft.load(bundles / "tiny-llama"), {"max_new_tokens": 4})
    monkeypatch.setattr(edgepeft.Model, "stream", lambda *_, **__: iter(()))
    conversation.say("one")
    assert conversation.messages == []
