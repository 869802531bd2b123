"""What the benchmark's workers share: arguments, data, timing, and the line that they print."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

WARM_UP = 2
LEARNING_RATE = 2e-4
MAX_GRAD_NORM = 1.0
RANK = 8
#: Where in a text tokens are generated, and how many.
POSITIONS = (10, 1000)
NEW_TOKENS = 128
_SEED = 0


def parser() -> argparse.ArgumentParser:
    """Arguments of every worker."""
    result = argparse.ArgumentParser()
    for name in ("batch", "length", "threads", "steps"):
        result.add_argument(f"--{name}", type=int, required=True)
    return result


def tokens(batch: int, length: int, vocabulary: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Random tokens, and other random tokens as labels: [batch, length] int64 each."""
    generator = np.random.default_rng(_SEED)
    shape = (2, batch, length)
    ids, labels = generator.integers(0, vocabulary, shape, dtype=np.int64)
    return ids, labels


def measure(step: Callable[[], object], steps: int) -> None:
    """Times a step and prints the line of JSON; the peak is the whole process's, loading included."""
    for _ in range(WARM_UP):
        step()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "peak_rss_mb": _peak_mb()}))


def measure_generation(
    start: Callable[[npt.NDArray[np.int64]], Callable[[], object]], vocabulary: int
) -> None:
    """Times greedy generation and prints the line of JSON.

    Args:
        start: Reads a prompt, [tokens] int64, and gives a function that makes one more token.
        vocabulary: Number of tokens to draw prompts from.
    """
    generator = np.random.default_rng(_SEED)
    result: dict[str, float] = {}
    for position in (POSITIONS[0], *POSITIONS):  # once to warm up
        one_more = start(generator.integers(3, vocabulary, position, dtype=np.int64))
        seconds = []
        for _ in range(NEW_TOKENS):
            started = time.perf_counter()
            one_more()
            seconds.append(time.perf_counter() - started)
        result[f"seconds_at_{position}"] = sum(seconds)
    print(json.dumps({"seconds": result, "tokens": NEW_TOKENS, "peak_rss_mb": _peak_mb()}))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
