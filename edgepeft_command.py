"""The command `edgepeft`, outside of the package: importing that takes a second, in which Ctrl-C is pressed too."""

import os

#: What a shell gives for a program that SIGINT ended: 128 and the signal's number.
_INTERRUPTED = 128 + 2

try:
    import signal
    import sys
    from collections.abc import Iterator
    from contextlib import contextmanager
except KeyboardInterrupt:  # what these take is a good part of what Python itself takes to start
    os._exit(_INTERRUPTED)


@contextmanager
def quiet_ends() -> Iterator[None]:
    """Has Ctrl-C and our own errors end the program without a traceback.

    A program that ignores Ctrl-C goes on doing so.
    """
    taken = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if taken:  # no exception, which a library that is half imported may turn into another one
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    except Exception as error:
        errors = sys.modules.get("edgepeft.errors")
        if errors is None or not isinstance(error, errors.EdgepeftError):
            raise
        sys.exit(f"Error: {error}")
    finally:
        if taken:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Runs the command."""
    with quiet_ends():
        from edgepeft.cli import main as command  # noqa: PLC0415 - the import is what may be interrupted
    command()


if __name__ == "__main__":
    main()
