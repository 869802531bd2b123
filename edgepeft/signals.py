"""Ctrl-C and SIGTERM end a run in order: the first asks it to stop, the second does what it always did, at once.

Python calls handlers between its own instructions, so that a signal would wait for the running call of ONNX Runtime,
and two of one kind that come during one call would count as one. The bytes that Python's wake-up descriptor gets are
written when a signal comes, and a thread counts them: the first is acknowledged, the second breaks off the running call.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: The signals that ask a program to end, with the handler of a program that has none of its own.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
#: Seconds that the thread gets to count a signal that came just before Python looked.
_COUNTING_SECONDS = 0.02
#: Seconds that a run which ends waits for what is told of the signal.
_TELLING_SECONDS = 1.0
#: What `signal.set_wakeup_fd` takes for none.
_NO_DESCRIPTOR = -1


@contextlib.contextmanager
def first_calls(
    ask: Callable[[], None], break_off: Callable[[], None], tell: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Has the first signal call `ask`, and the second do what it does by default.

    A program's own handlers, and threads other than the main one, are left alone.

    Args:
        ask: Called once, in the main thread.
        break_off: Called in another thread when a second signal came: has a call that is running return soon, so
            that Python sees the signal.
        tell: Called when the first signal came, in a thread of its own: at once, or once Python sees the signal where
            an event loop has the descriptor. What it raises there is lost, and nobody waits long for it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    taken = [
        number for number, default in _DEFAULTS.items() if in_main and signal.getsignal(number) is default
    ]
    if not taken:
        yield
        return
    second = threading.Event()
    counted = False
    teller = _teller(tell)

    def give_back() -> None:
        for number in taken:
            signal.signal(number, _DEFAULTS[number])

    def handle(number: int, _: object) -> None:
        give_back()
        ask()
        if not counted:
            teller.start()
        if second.wait(_COUNTING_SECONDS):  # both came before Python looked
            signal.raise_signal(number)

    def on_second() -> None:
        second.set()
        break_off()

    for number in taken:
        signal.signal(number, handle)
    try:
        with _counted(taken, teller.start, on_second) as counted:
            yield
        if teller.is_alive():
            teller.join(_TELLING_SECONDS)
    finally:
        give_back()


def _teller(tell: Callable[[], None]) -> threading.Thread:
    """A thread that will make the call, and loses what it raises."""

    def telling() -> None:
        with contextlib.suppress(Exception):
            tell()

    return threading.Thread(target=telling, name="edgepeft-tell", daemon=True)


@contextlib.contextmanager
def _counted(numbers: list[signal.Signals], *calls: Callable[[], None]) -> Iterator[bool]:
    """Makes each call in another thread when so many signals came; gives `False` where an event loop has the descriptor."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if before != _NO_DESCRIPTOR:
            signal.set_wakeup_fd(before)
            yield False
            return

        def count() -> None:
            waiting = iter(calls)
            while content := reader.recv(1):
                if content[0] in numbers:
                    next(waiting, lambda: None)()

        thread = threading.Thread(target=count, name="edgepeft-signals", daemon=True)
        thread.start()
        _shared.append(writer)
        try:
            yield True
        finally:
            _shared.remove(writer)
            signal.set_wakeup_fd(_NO_DESCRIPTOR)
            # Ends the thread, also where a forked child has the socket open.
            writer.shutdown(socket.SHUT_RDWR)
            thread.join()


#: Sockets that a forked child must not write to: Ctrl-C is for the whole group, and would count once for each.
_shared: list[socket.socket] = []


def _leave_parent_alone() -> None:
    if _shared:
        signal.set_wakeup_fd(_NO_DESCRIPTOR)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parent_alone)
