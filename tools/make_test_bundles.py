"""Exports the small models that the tests of the device run on, with what engine ort-training takes and PyTorch's values.

The bundles of tests/data/handmade are copied into FOLDER/handmade, and get the same.

Usage: python tools/make_test_bundles.py FOLDER ENVIRONMENT, the virtual environment for onnxruntime-training
"""

import logging
import shutil
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from small_models import export_all

from edgepeft_export.ort_training import add_ort_training


def _tell(name: str) -> None:
    """It takes minutes: what is being made is shown."""
    print(f"   {name}", flush=True)


def main() -> None:
    """Exports into the folder that the command line names."""
    folder, environment = Path(sys.argv[1]), Path(sys.argv[2])
    warnings.simplefilter("ignore")  # other libraries' on themselves
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    export_all(folder, _tell)
    handmade = folder / "handmade"
    shutil.rmtree(handmade, ignore_errors=True)
    shutil.copytree(Path(__file__).parents[1] / "tests" / "data" / "handmade", handmade)
    for manifest in [*folder.glob("*/manifest.json"), *handmade.glob("*/manifest.json")]:
        _tell(f"{manifest.parent.name}, for onnxruntime-training")
        add_ort_training(manifest.parent, environment)


if __name__ == "__main__":
    main()
