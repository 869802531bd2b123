"""Computes loss and gradients of batches on engine ort-training; a script for the environment that has it.

Usage: python gradients.py BUNDLE FOLDER, with FOLDER/adapter.safetensors and FOLDER/batch-N.safetensors. It writes
FOLDER/outputs-N.safetensors.
"""

import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

import edgepeft
from edgepeft import names


def main() -> None:
    """Writes the outputs of the bundle's graph "train"."""
    bundle, folder = Path(sys.argv[1]), Path(sys.argv[2])
    engine = edgepeft.load(bundle, engine="ort-training").engine
    adapter = engine.prepare(load_file(folder / "adapter.safetensors"))
    for path in sorted(folder.glob("batch-*.safetensors")):
        outputs = engine.run(names.TRAIN, load_file(path), adapter)
        save_file(outputs, folder / path.name.replace("batch", "outputs"))


if __name__ == "__main__":
    main()
