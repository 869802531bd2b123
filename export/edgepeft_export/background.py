"""A second piece of work beside the first: tracing keeps one core busy, and a workstation has more."""

import gc
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

import torch

#: Seconds to wait for the other process after the first work is done, before it is given up.
_PATIENCE_SECONDS = 60

Work = Callable[[], bytes]


@contextmanager
def in_background(work: Work) -> Iterator[Work]:
    """Starts work in a forked process, which sees the model without a copy of it.

    Where there is no safe fork, or the process fails, the work is done when its result is asked for: so its errors
    are those of an ordinary call.

    Args:
        work: Computes the result; what else it changes is lost.

    Yields:
        A function that waits for the result.
    """
    started = _start(work) if sys.platform == "linux" else None
    if started is None:
        yield work
        return
    process, receiver = started

    def result() -> bytes:
        try:
            if receiver.poll(_PATIENCE_SECONDS):
                done: bytes = receiver.recv_bytes()
                return done
        except (EOFError, OSError):  # it ended before its message, or in the middle of it
            pass
        process.kill()
        return work()

    try:
        yield result
    finally:
        process.kill()
        process.join()
        receiver.close()


def _start(work: Work) -> tuple[ForkProcess, Connection] | None:
    """The process and where its result comes from; `None` where the system or Python refuses another process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, sender, receiver), daemon=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of forks beside threads: none of them computes
            # Garbage of this process is not collected in the other: a session of ONNX Runtime would wait for its threads.
            gc.freeze()
            process.start()
    except (AssertionError, OSError):  # a daemonic process, such as a pool's, may have no children
        receiver.close()
        return None
    finally:
        gc.unfreeze()
        sender.close()
    return process, receiver


def _run(work: Work, sender: Connection, receiver: Connection) -> None:
    """The forked process: one thread, because those of the parent's pool are not here."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this process
        receiver.close()  # or a parent that was killed would leave this one waiting for a reader: itself
        torch.set_num_threads(1)
        sender.send_bytes(work())
    except BaseException:  # noqa: BLE001, S110 - the parent does the work again, and shows its own error
        pass
    finally:
        sender.close()
