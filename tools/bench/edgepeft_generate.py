"""Benchmark worker: greedy tokens of a bundle with its key-value cache on stock ONNX Runtime."""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from common import measure_generation

import edgepeft


def main() -> None:
    """Loads the bundle and generates."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bundle", required=True)
    arguments.add_argument("--threads", type=int, required=True)
    options = arguments.parse_args()
    model = edgepeft.load(options.bundle, threads=options.threads)
    adapter = model.engine.prepare(model.adapter.tensors)

    def start(prompt: npt.NDArray[np.int64]) -> Callable[[], object]:
        decoder = model.engine.decoder(adapter)
        best = [int(decoder.next(prompt).argmax())]

        def one_more() -> None:
            best[0] = int(decoder.next(np.array(best)).argmax())

        return one_more

    logits = next(port for port in model.bundle.manifest.graphs["infer"].outputs if port.name == "logits")
    measure_generation(start, int(logits.shape[-1]))


if __name__ == "__main__":
    main()
