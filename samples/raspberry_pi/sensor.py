"""Stands in for a camera and for its user: puts images into the watched folder, and corrects what was misread.

Usage: python -m samples.raspberry_pi.sensor SHOTS FOLDER      SHOTS is shots/<right class>/*.png
"""

import random
import shutil
import sys
import time
from pathlib import Path

from samples.raspberry_pi.folders import Watched, by_class, move

_WAIT_SECONDS = 0.2
_SEED = 0


def put(shots: list[tuple[str, Path]], watched: Watched) -> None:
    """Copies images into the inbox, whole: first under a hidden name, as a camera's program should."""
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
        while not (found := list(watched.read.glob(f"*/{path.name}"))):
            time.sleep(_WAIT_SECONDS)
        if found[0].parent.name != right:
            move(found[0], watched.corrected / right)
            wrong += 1
    return wrong


def main() -> None:
    """Shows every image once, ten at a time."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    shots, watched = list(by_class(Path(sys.argv[1]))), Watched(Path(sys.argv[2]))
    random.Random(_SEED).shuffle(shots)  # noqa: S311 - an order, no secret
    for start in range(0, len(shots), 10):
        some = shots[start : start + 10]
        put(some, watched)
        print(f"{correct(some, watched)} of {len(some)} were misread, and are corrected", flush=True)


if __name__ == "__main__":
    main()
