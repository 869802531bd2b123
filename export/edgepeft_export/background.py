"""A second piece of work beside the first: tracing keeps one core busy, and a workstation has more."""

import gc
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

#: Seconds to wait for the other process after the first work is done, before it is given up.
_PATIENCE_SECONDS = 600

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
    if sys.platform != "linux":
        yield work
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, sender), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: none of them computes
        # Garbage of this process is not collected in the other: a session of ONNX Runtime would wait for its threads.
        gc.freeze()
        process.start()
        gc.unfreeze()
    sender.close()

    def result() -> bytes:
        try:
            if receiver.poll(_PATIENCE_SECONDS):
                done: bytes = receiver.recv_bytes()
                return done
        except EOFError:
            pass
        return work()

    try:
        yield result
    finally:
        process.kill()
        process.join()
        receiver.close()


def _run(work: Work, sender: Connection) -> None:
    """The forked process: one thread, because those of the parent's pool are not here."""
    torch.set_num_threads(1)
    try:
        sender.send_bytes(work())
    except Exception:  # noqa: BLE001, S110 - the parent does the work again, and shows its own error
        pass
    finally:
        sender.close()
