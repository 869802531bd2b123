"""Work in a process of its own, and what happens when that process fails."""

import gc
import os
import signal
from typing import NoReturn

import pytest

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
