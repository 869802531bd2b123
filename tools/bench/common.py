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


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
