"""Runs a piece of a program in the environment of engine ort-training, and gives what it prints as JSON."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from remote_engine import PYTHON

#: Environment in which artifacts are made; `make test` sets it.
ENVIRONMENT = "EDGEPEFT_ORT_ARTIFACTS"

needs_both = pytest.mark.skipif(
    not {PYTHON, ENVIRONMENT} <= os.environ.keys(),
    reason=f"{PYTHON} and {ENVIRONMENT} name no environments; make test does",
)


def on_other_engine(bundle: Path, program: str, *arguments: Path) -> Any:
    """Adds the engine to a bundle, and runs a program that finds it as its first argument.

    Args:
        bundle: The bundle, which is changed in place.
        program: Lines that print JSON; `arguments` are the `Path` objects after the bundle.
        arguments: Further paths for it.
    """
    from edgepeft_export.ort_training import add_ort_training

    add_ort_training(bundle, os.environ[ENVIRONMENT])
    root = Path(__file__).parents[1]
    head = "import json, sys\nfrom pathlib import Path\nbundle, *arguments = map(Path, sys.argv[1:])\n"
    done = subprocess.run(
        [os.environ[PYTHON], "-c", head + program, bundle, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
