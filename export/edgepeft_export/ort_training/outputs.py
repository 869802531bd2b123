"""Runs a bundle's graphs on engine ort-training; a script for the environment that has it.

Usage: python outputs.py BUNDLE FOLDER, with FOLDER/adapter.safetensors and FOLDER/batch-N.safetensors. It writes
FOLDER/outputs-N-GRAPH.safetensors, and FOLDER/outputs-decode.safetensors where the bundle has a key-value cache.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import edgepeft
from edgepeft import names


def main() -> None:
    """Writes the outputs."""
    bundle, folder = Path(sys.argv[1]), Path(sys.argv[2])
    model = edgepeft.load(bundle, engine="ort-training")
    adapter = model.engine.prepare(load_file(folder / "adapter.safetensors"))
    for path in sorted(folder.glob("batch-*.safetensors")):
        batch = load_file(path)
        for graph in (names.TRAIN, names.EVALUATE, names.INFER):
            outputs = model.engine.run(graph, batch, adapter)
            save_file(outputs, folder / f"{path.stem.replace('batch', 'outputs')}-{graph}.safetensors")
    if names.DECODE in model.bundle.manifest.graphs:
        ids = load_file(folder / "batch-0.safetensors")["input_ids"][-1]
        decoder = model.engine.decoder(adapter)
        half = len(ids) // 2
        scores = np.stack([decoder.next(ids[:half]), decoder.next(ids[half:])])
        save_file({names.LOGITS: scores}, folder / "outputs-decode.safetensors")


if __name__ == "__main__":
    main()
