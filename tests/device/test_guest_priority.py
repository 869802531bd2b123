"""The priority of a training that is a guest, and of the threads that work for it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import edgepeft
from edgepeft import guest
from edgepeft.engines.base import StepResult

ROWS = [{"text": text} for text in ("hello there.", "who is it?", "a friend.")]
SETTINGS = edgepeft.TrainingArguments(max_steps=2, batch_size=2)


def in_a_thread(run: Callable[[], None]) -> None:
    """Runs something in a thread of its own, whose priority goes with it."""
    failed: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_priority_is_low_while_it_trains(handmade: Path, tmp_path: Path) -> None:
    """Of the thread that trains only, and of those that it starts; a lower one than asked for stays."""
    seen: list[int] = []

    class Watch(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del step, result
            started: list[int] = []
            child = threading.Thread(target=lambda: started.append(priority()))
            child.start()
            child.join()
            seen.extend((priority(), *started))

    def run() -> None:
        first = priority()
        edgepeft.Trainer(edgepeft.load(handmade / "chat"), SETTINGS).fit(
            ROWS, callbacks=[Watch()], guest=edgepeft.Guest(root=tmp_path, nice=first + 3)
        )
        assert set(seen) == {first + 3}
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), first + 5)
        seen.clear()
        edgepeft.Trainer(edgepeft.load(handmade / "chat"), SETTINGS).fit(
            ROWS, callbacks=[Watch()], guest=edgepeft.Guest(root=tmp_path, nice=first + 3)
        )
        assert set(seen) == {first + 5}
        assert priority() == first + 5

    before = priority()
    in_a_thread(run)
    assert priority() == before


def test_the_priority_of_onnx_runtime_s_own_threads(handmade: Path, tmp_path: Path) -> None:
    """Those that were there before are lowered with the rest; all have their own again afterwards."""
    model = edgepeft.load(handmade / "chat", threads=3)

    def priorities() -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, each) for each in model.engine.workers}

    seen: list[set[int]] = []

    class Watch(edgepeft.Callback):
        def on_evaluate(self, step: int, loss: float) -> None:
            del step, loss
            seen.append(priorities())

    def run() -> None:
        first = priority()
        edgepeft.Trainer(model, SETTINGS).fit(ROWS)
        assert len(model.engine.workers) >= 2
        assert priorities() == {first}
        some = len(model.engine.workers)
        chosen = edgepeft.Guest(root=tmp_path, nice=first + 3)
        edgepeft.Trainer(model, SETTINGS).fit(ROWS, ROWS, callbacks=[Watch()], guest=chosen)
        assert seen == [{first + 3}] * 2
        assert len(model.engine.workers) > some, "the evaluation has its own"
        assert priorities() == {first}

    in_a_thread(run)


def test_the_priority_comes_back_where_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it does not, nothing fails."""
    asked: list[int] = []

    def refuse(kind: int, thread: int, nice: int) -> None:
        del kind, thread
        asked.append(nice)
        raise PermissionError

    monkeypatch.setattr("edgepeft.guest.os.setpriority", refuse)
    monkeypatch.setattr("edgepeft.guest.os.getpriority", lambda *_: 1)
    with guest.low_priority(7):
        assert asked == [7]
    assert asked == [7, 1]
