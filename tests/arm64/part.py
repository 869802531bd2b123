"""One processor's part of a comparison: what it computes, or some steps of a training, as arrays in a file.

Usage: python part.py compute BUNDLES OUTPUT
       python part.py train BUNDLES OUTPUT CHECKPOINTS STEPS
"""

import platform
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import reference_values
from safetensors.numpy import save_file
from training_runs import arguments, make_rows

import edgepeft
from edgepeft import names
from edgepeft.engines.base import StepResult

NAMES = ("tiny-llama", "tiny-bert", "conv-net")
#: Steps of a whole run.
STEPS = 10
BUNDLE = "tiny-llama"


class StopAfter(edgepeft.Callback):
    """Ends a run after a step, as a user's Ctrl-C does; knows which steps were made."""

    def __init__(self, trainer: edgepeft.Trainer, step: int) -> None:
        self._trainer, self._step = trainer, step
        self.made: list[int] = []

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        self.made.append(step)
        if step == self._step:
            self._trainer.stop()


def compute(bundles: Path) -> dict[str, np.ndarray]:
    """Loss, gradients and scores of every stored batch."""
    found: dict[str, np.ndarray] = {}
    for name in NAMES:
        engine, reference = (
            edgepeft.load(bundles / name, threads=1).engine,
            reference_values.load(bundles, name),
        )
        adapter = engine.prepare(reference.adapter)
        for index, call in enumerate(reference.calls):
            for graph in (names.TRAIN, names.INFER):
                for output, value in engine.run(graph, call.batch, adapter).items():
                    found[f"{name}/{index}/{graph}/{output}"] = np.array(value, order="C")
    return found


def train(bundles: Path, checkpoints: Path, steps: int) -> dict[str, np.ndarray]:
    """Makes a run go on to a step, from the checkpoint in the folder if there is one.

    Gives the adapter, the losses of all steps, and the numbers of those that were made here.
    """
    settings = arguments(max_steps=STEPS, learning_rate=1e-3, lr_scheduler_type="cosine", weight_decay=0.1)
    trainer = edgepeft.Trainer(edgepeft.load(bundles / BUNDLE, threads=1), settings)
    stop = StopAfter(trainer, steps)
    result = trainer.fit(make_rows(), callbacks=[stop], checkpoint_dir=checkpoints, resume=True)
    return dict(result.adapter.tensors) | {"losses": np.array(result.losses), "made": np.array(stop.made)}


def main() -> None:
    """Writes what the command line asks for."""
    what, bundles, output, *more = sys.argv[1:]
    if what == "compute":
        arrays = compute(Path(bundles))
    else:
        arrays = train(Path(bundles), Path(more[0]), int(more[1]))
    save_file(arrays, output)
    sys.stdout.write(platform.machine())


if __name__ == "__main__":
    main()
