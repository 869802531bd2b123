"""Work in a process of its own, and what happens when that process fails."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from edgepeft_export import background
from edgepeft_export.background import in_background
from edgepeft_export.errors import ExportError


def test_the_result_comes_from_another_process() -> None:
    """It sees what was there when it started."""
    values = ["before"]

    def work() -> bytes:
        return f"{os.getpid()} {values[0]}".encode()

    with in_background(work) as result:
        values[0] = "after"
        other, seen = result().split()
    assert int(other) != os.getpid()
    assert seen == b"before"


def test_a_failure_is_that_of_an_ordinary_call() -> None:
    """The work is done again where its error can be seen."""

    def work() -> NoReturn:
        raise ExportError("trace", "no")

    with in_background(work) as result, pytest.raises(ExportError, match="trace: no"):
        result()


def test_a_process_that_dies_is_replaced() -> None:
    """As when the system kills it for want of memory."""
    parent = os.getpid()

    def work() -> bytes:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"done"

    with in_background(work) as result:
        assert result() == b"done"


def test_garbage_of_the_first_process_is_not_collected_in_the_second() -> None:
    """A session of ONNX Runtime would wait there for threads that were not forked."""
    destroyed: list[int] = []

    class Session:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            destroyed.append(os.getpid())

    def work() -> bytes:
        gc.collect()
        return str(len(destroyed)).encode()

    gc.disable()
    try:
        Session()
        with in_background(work) as result:
            assert result() == b"0"
    finally:
        gc.enable()
    gc.collect()
    assert destroyed == [os.getpid()], "here it is garbage as before"


def test_no_process_is_left_behind() -> None:
    """A result that nobody asks for is given up."""
    with in_background(lambda: signal.pause() or b"never"):
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_dies_in_its_message_is_replaced() -> None:
    """The message is larger than a pipe holds: it is cut off in the middle."""
    parent = os.getpid()

    def work() -> bytes:
        if os.getpid() == parent:
            return b"done"
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        return bytes(1 << 20)

    with in_background(work) as result:
        multiprocessing.active_children()[0].join()
        assert result() == b"done"


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a lock that a thread of the parent held at the fork; it stops computing, too."""
    monkeypatch.setattr(background, "_PATIENCE_SECONDS", 0.1)
    parent = os.getpid()
    with in_background(lambda: b"done" if os.getpid() == parent else signal.pause() or b"never") as result:
        process = multiprocessing.active_children()[0]
        assert result() == b"done"
        process.join()


@pytest.mark.parametrize("refusal", ["daemonic", "fork"])
def test_without_another_process(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    """In a pool's worker, or where the system has no room for one more: the work is done here, nothing stays open."""

    def refused(*_: object) -> NoReturn:
        raise BlockingIOError("Resource temporarily unavailable")

    if refusal == "daemonic":
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    else:
        monkeypatch.setattr("multiprocessing.popen_fork.Popen._launch", refused)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with in_background(lambda: str(os.getpid()).encode()) as result:
        assert int(result()) == os.getpid()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


_PROGRAM = """
import os, signal, sys
from edgepeft_export.background import in_background

def work():
    print(os.getpid(), flush=True)
    {then}
    return bytes(1 << 20)

with in_background(work):
    signal.pause()
"""


def _started(then: str) -> tuple[subprocess.Popen[str], int]:
    """A program that waits for a signal, and the number of its second process, which is at work."""
    command = [sys.executable, "-c", _PROGRAM.format(then=then)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_nobody(number: signal.Signals) -> None:
    """Its second process has a result that nobody reads, and ends too: then its output is closed."""
    process, other = _started("")
    process.send_signal(number)
    try:
        assert process.communicate(timeout=60)[1] == ""
    except subprocess.TimeoutExpired:
        os.kill(other, signal.SIGKILL)
        raise


def test_ctrl_c_is_told_once() -> None:
    """A terminal sends it to both processes; one traceback, the parent's, is enough."""
    process, other = _started("signal.pause()")
    os.kill(other, signal.SIGINT)
    time.sleep(0.5)  # the other would have time to tell
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert told.count("Traceback") == 1
    assert told.rstrip().endswith("KeyboardInterrupt")
