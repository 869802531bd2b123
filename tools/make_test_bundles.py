"""Exports the small models that the tests of the device run on, and stores what PyTorch computes with them.

Usage: python tools/make_test_bundles.py FOLDER
"""

import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from small_models import export_all


def main() -> None:
    """Exports into the folder that the command line names."""
    warnings.simplefilter("ignore")  # other libraries' on themselves
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    export_all(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
