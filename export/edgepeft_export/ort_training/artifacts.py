"""Makes the training artifacts; a script for an environment that has onnxruntime-training and onnx, and nothing of ours.

Usage: python artifacts.py FOLDER, with FOLDER/forward.onnx and FOLDER/trainable.json, a list of names. It writes
FOLDER/training_model.onnx and FOLDER/nominal_checkpoint.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Writes the artifacts."""
    # The package's own beginning imports torch; what is needed here does not.
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    training = ModuleType("onnxruntime.training")
    training.__path__ = [f"{folder}/training" for folder in spec.submodule_search_locations or ()]
    sys.modules[training.__name__] = training
    import onnx  # noqa: PLC0415
    from onnxruntime.training import artifacts  # noqa: PLC0415

    folder = Path(sys.argv[1])
    trainable = json.loads((folder / "trainable.json").read_text())
    model = onnx.load(str(folder / "forward.onnx"))
    artifacts.generate_artifacts(
        model, requires_grad=trainable, artifact_directory=str(folder), nominal_checkpoint=True
    )


if __name__ == "__main__":
    main()
