"""Ctrl-C and SIGTERM end a run in order: the first asks it to stop, the second does what it always did.

Python calls handlers between its own instructions: a signal waits for the running call of ONNX Runtime, and two of one
kind that come during one call count as one.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: The signals that ask a program to end, with the handler of a program that has none of its own.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@contextlib.contextmanager
def first_calls(ask: Callable[[], None]) -> Iterator[None]:
    """Has the first signal call `ask`; a program's own handlers, and threads other than the main one, are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) is default]

    def give_back() -> None:
        for number in taken:
            signal.signal(number, _DEFAULTS[number])

    def handle(*_: object) -> None:
        give_back()
        ask()

    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        give_back()
