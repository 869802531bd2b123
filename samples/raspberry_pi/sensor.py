"""Stands in for a camera and for its user: puts images into the watched folder, and corrects what was misread.

Usage: python -m samples.raspberry_pi.sensor SHOTS FOLDER      SHOTS is shots/<right class>/*.png
"""

import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from samples.raspberry_pi.folders import Watched, by_class, move, reason

_WAIT_SECONDS = 0.2
#: Seconds after which it says what it waits for.
_PATIENCE_SECONDS = 10.0
_SEED = 0

Found = TypeVar("Found")


def wait(until: Callable[[], Found], what: str) -> Found:
    """Waits until something is there, and says so once when that takes long."""
    began, told = time.monotonic(), False
    while not (found := until()):
        if not told and time.monotonic() - began > _PATIENCE_SECONDS:
            print(f"waiting for {what}: is the reader running?", flush=True)
            told = True
        time.sleep(_WAIT_SECONDS)
    return found


def places(watched: Watched, name: str) -> list[Path]:
    """Where an image is that was read; nowhere as long as it was not."""
    return list(watched.read.glob(f"*/{name}"))


def put(shots: list[tuple[str, Path]], watched: Watched) -> None:
    """Copies images into the inbox, whole: first under a hidden name, as a camera's program should."""
    wait(watched.inbox.is_dir, f"the folder {watched.inbox}")
    for _, path in shots:
        hidden = watched.inbox / f".{path.name}"
        shutil.copyfile(path, hidden)
        hidden.rename(watched.inbox / path.name)


def correct(shots: list[tuple[str, Path]], watched: Watched) -> int:
    """Waits until images were read, and moves the wrong ones to where they belong.

    Returns:
        How many were wrong.
    """
    wrong = 0
    for right, path in shots:
        found = wait(partial(places, watched, path.name), f"{path.name} to be read")
        if found[0].parent.name != right:
            move(found[0], watched.corrected / right)
            wrong += 1
    return wrong


def main() -> None:
    """Shows every image once, ten at a time."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    shots, watched = list(by_class(Path(sys.argv[1]))), Watched(Path(sys.argv[2]))
    if not shots:
        sys.exit(f"Error: {sys.argv[1]}: expected images in folders that are named after their classes.")
    random.Random(_SEED).shuffle(shots)  # noqa: S311 - an order, no secret
    for start in range(0, len(shots), 10):
        some = shots[start : start + 10]
        put(some, watched)
        print(f"{correct(some, watched)} of {len(some)} were misread, and are corrected", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"Error: {reason(error)}.")
