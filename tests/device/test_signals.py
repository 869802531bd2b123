"""Ctrl-C and SIGTERM, sent to a real run: the first stops it in order, the second at once."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from handmade_bundles import HANDMADE

import edgepeft
from edgepeft import signals

STEPS = 60
#: Signals that are sent at most, a fifth of a second apart, until a program has ended.
TRIES = 100

#: A run that tells each step and then waits for a line, so that a signal comes at a known step.
PROGRAM = f"""
import os
import sys
import edgepeft

class Turn(edgepeft.Callback):
    def on_step_end(self, step, result):
        print(step, flush=True)
        sys.stdin.readline()

class Told(edgepeft.Trainer):
    def stop(self):
        super().stop()
        os.write(1, b"asked\\n")  # in a handler, print may come in the middle of another

settings = edgepeft.TrainingArguments(max_steps={STEPS}, batch_size=2, learning_rate=0.05, lr_scheduler_type="cosine")
trainer = Told(edgepeft.load(sys.argv[1]), settings)
result = trainer.fit(sys.argv[2], callbacks=[Turn()], checkpoint_dir=sys.argv[3], resume=True)
result.adapter.save(sys.argv[4])
print(result.stop_reason, result.steps)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("hello.", "who is it?", "me.")))
    return path


def start(tmp_path: Path, data: Path, output: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, HANDMADE / "chat", data, tmp_path / "run", tmp_path / output]
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def answer(run: subprocess.Popen[str], step: int) -> None:
    """Waits for a step, and lets the run go on."""
    assert run.stdin is not None
    assert run.stdout is not None
    assert run.stdout.readline() == f"{step}\n"
    run.stdin.write("\n")
    run.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_running_step_and_saves(
    tmp_path: Path, data: Path, number: signal.Signals
) -> None:
    """The run ends in order after that step; resumed, it ends with the adapter of one that was not stopped."""
    run = start(tmp_path, data, "first")
    answer(run, 1)
    assert run.stdout is not None
    assert run.stdout.readline() == "2\n"
    run.send_signal(number)
    out, err = run.communicate("\n", timeout=60)
    assert (run.returncode, out, err) == (0, "asked\nstopped 2\n", "")
    again = start(tmp_path, data, "second")
    out, err = again.communicate("\n" * STEPS, timeout=60)
    assert out.endswith(f"finished {STEPS}\n"), err
    settings = edgepeft.TrainingArguments(
        max_steps=STEPS, batch_size=2, learning_rate=0.05, lr_scheduler_type="cosine"
    )
    whole = edgepeft.Trainer(edgepeft.load(HANDMADE / "chat"), settings).fit(data)
    resumed = edgepeft.Adapter.load(tmp_path / "second")
    assert all((resumed.tensors[name] == value).all() for name, value in whole.adapter.tensors.items())


def test_a_second_signal_ends_the_program_at_once(tmp_path: Path, data: Path) -> None:
    """The default of that signal applies again: the program ends without another word, and writes no adapter."""
    run = start(tmp_path, data, "first")
    answer(run, 1)
    assert run.stdout is not None
    assert run.stdout.readline() == "2\n"
    run.send_signal(signal.SIGTERM)
    assert run.stdout.readline() == "asked\n"
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGTERM
    assert not (tmp_path / "first").exists()


#: A run whose first step never ends, and that may be asked how it acknowledges a signal.
ENDLESS = f"""
import os
import sys
import numpy as np
import edgepeft
from rich.console import Console
from edgepeft.progress import LineProgress, TerminalProgress

shown = [globals()[name](Console(file=sys.stdout, width=80)) for name in sys.argv[1:]]

class Told(edgepeft.Trainer):
    def stop(self):
        super().stop()
        os.write(1, b"asked\\n")  # in a handler, print may come in the middle of another

rows = {{"given": np.full((4, 3), 1e4, np.float32), "target": np.zeros((4, 2), np.float32)}}
trainer = Told(edgepeft.load({str(HANDMADE / "endless")!r}), edgepeft.TrainingArguments(max_steps=1))
engine = trainer.model.engine
call = engine.call

def begun(graph, feeds):
    print("begun", flush=True)
    return call(graph, feeds)

engine.call = begun
try:
    trainer.fit(rows, callbacks=shown)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.stock("its training steps cannot be broken off")
@pytest.mark.parametrize(
    ("number", "told", "code"),
    [(signal.SIGINT, "interrupted\n", 0), (signal.SIGTERM, "", -signal.SIGTERM)],
)
def test_a_second_signal_breaks_off_a_call_of_onnx_runtime(
    number: signal.Signals, told: str, code: int
) -> None:
    """Both come while one operator runs, where Python would see neither: the call is ended, and then the program."""
    run = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "begun\n"
    try:
        for _ in range(TRIES):  # the first few may come before the call
            if run.poll() is None:
                run.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(0.2)
        assert run.poll() is not None
        out, err = run.communicate()
    finally:
        run.kill()
    assert (run.returncode, out.removeprefix("asked\n"), err) == (code, told, "")


@pytest.mark.stock("a training step there lets no other thread run")
@pytest.mark.parametrize("progress", ["LineProgress", "TerminalProgress"])
def test_the_first_signal_is_acknowledged_while_the_step_runs(progress: str) -> None:
    """The step never ends; somebody who hears nothing would press again, and lose what was learned."""
    command = [sys.executable, "-c", ENDLESS, progress]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    try:
        while "begun" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        while "stopping after this step; a second Ctrl-C ends at once\n" not in run.stdout.readline():
            assert run.poll() is None
        assert run.poll() is None
    finally:
        run.kill()
        run.communicate()


def test_two_signals_that_python_sees_as_one_are_two() -> None:
    """No instruction of Python's own comes between the two, as in a long call; the first asks, the second ends."""
    kill = ctypes.CDLL(None).kill
    told: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        signals.first_calls(lambda: told.append("asked"), lambda: told.append("broken off")),
    ):
        list(map(kill, [os.getpid()] * 2, [signal.SIGINT] * 2))
    assert sorted(told) == ["asked", "broken off"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_childs_signals_are_not_counted() -> None:
    """Ctrl-C goes to a whole group of processes; a forked worker's does not make the parent's first one a second."""
    counted: list[str] = []
    with signals.first_calls(lambda: counted.append("asked"), lambda: counted.append("broken off")):
        for _ in range(3):
            child = os.fork()
            if not child:
                signal.raise_signal(signal.SIGINT)
                os._exit(0)
            os.waitpid(child, 0)
        signal.raise_signal(signal.SIGINT)
    assert counted == ["asked"]


def test_an_event_loops_descriptor_is_left_alone() -> None:
    """Whoever set one waits for its bytes."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)  # the byte is there, or will never be
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        try:
            told: list[str] = []
            with signals.first_calls(lambda: None, lambda: None, lambda: told.append("told")):
                signal.raise_signal(signal.SIGINT)
            assert reader.recv(1) == bytes([signal.SIGINT])
            assert told == ["told"], "nobody counts, so the handler tells"
        finally:
            assert signal.set_wakeup_fd(-1) == writer.fileno()


def test_a_programs_own_handlers_are_left_alone() -> None:
    """Only those of a program that has none are taken, and they are given back."""

    def own(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with signals.first_calls(lambda: None, lambda: None):
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_takes_no_signals() -> None:
    """Python allows handlers in the main thread only; training elsewhere works without."""
    reached = []

    def body() -> None:
        with signals.first_calls(lambda: None, lambda: None):
            reached.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert reached == [signal.default_int_handler]


def test_what_is_told_keeps_nobody_waiting() -> None:
    """A callback that blocks: the second signal is counted all the same, and the run's end does not wait for it."""
    told, counted, release = threading.Event(), threading.Event(), threading.Event()

    def blocks() -> None:
        told.set()
        release.wait()

    with signals.first_calls(lambda: None, counted.set, blocks):
        os.kill(os.getpid(), signal.SIGINT)
        assert told.wait(60)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert counted.wait(60)
    assert not release.is_set()
    release.set()


def test_a_callback_that_fails_does_not_keep_it_from_the_others() -> None:
    """Each is told of the signal."""

    class Fails(edgepeft.Callback):
        def on_signal(self) -> None:
            raise OSError("the display is gone")

    class Told(edgepeft.Callback):
        told = 0

        def on_step_end(self, *_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        def on_signal(self) -> None:
            self.told += 1

    told = Told()
    trainer = edgepeft.Trainer(edgepeft.load(HANDMADE / "chat"), edgepeft.TrainingArguments(max_steps=3))
    result = trainer.fit([{"text": "hello."}], callbacks=[Fails(), told])
    assert (result.stop_reason, result.steps) == ("stopped", 1)
    assert told.told == 1
