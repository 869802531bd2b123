"""The command `edgepeft`, outside of the package: importing that takes a second, in which Ctrl-C is pressed too."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: What a shell gives for a program that SIGINT ended.
_INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Has Ctrl-C end the program without a traceback; a program that ignores it goes on doing so."""
    taken = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if taken:  # no exception, which a library that is half imported may turn into another one
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        if taken:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Runs the command."""
    with quiet_interrupt():
        from edgepeft.cli import main as command  # noqa: PLC0415 - the import is what may be interrupted
    command()
