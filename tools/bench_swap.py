"""How long a hot swap between two adapters takes, and that it changes the answers.

Usage: python tools/bench_swap.py BUNDLE
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import edgepeft

_SWAPS = 200
_SEED = 0


def other(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """An adapter with other values."""
    generator = np.random.default_rng(_SEED)
    tensors = {
        name: generator.standard_normal(value.shape).astype(np.float32) * 0.05
        for name, value in sorted(adapter.tensors.items())
    }
    return edgepeft.Adapter(tensors, adapter.config, adapter.base_id)


def main() -> None:
    """Swaps back and forth, and prints the times in milliseconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="Of a language model.")
    model = edgepeft.load(parser.parse_args().bundle)
    adapters = (model.adapter, other(model.adapter))
    tokens = np.arange(3, 11).reshape(1, 8)
    batch = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    outputs = []
    for adapter in adapters:
        model.use(adapter)
        outputs.append(model.predict(batch)["logits"])
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1, "the swap changed nothing"
    times = []
    for index in range(_SWAPS):
        started = time.perf_counter()
        model.use(adapters[index % 2])
        times.append(1e3 * (time.perf_counter() - started))
    print(f"{_SWAPS} swaps: median {statistics.median(times):.2f} ms ({min(times):.2f}..{max(times):.2f})")


if __name__ == "__main__":
    main()
