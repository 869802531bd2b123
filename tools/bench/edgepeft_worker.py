"""Benchmark worker: training steps of a bundle on the ONNX Runtime that is installed."""

import numpy as np
from common import LEARNING_RATE, MAX_GRAD_NORM, measure, parser, tokens

import edgepeft
from edgepeft.engines.base import StepSettings, TrainState


def main() -> None:
    """Loads the bundle and steps."""
    arguments = parser()
    arguments.add_argument("--bundle", required=True)
    options = arguments.parse_args()
    model = edgepeft.load(options.bundle, threads=options.threads)
    stepper = model.engine.stepper(TrainState.fresh("adamw", model.adapter.tensors))
    vocabulary = next(
        p.shape[-1] for p in model.bundle.manifest.graphs["infer"].outputs if p.name == "logits"
    )
    ids, labels = tokens(options.batch, options.length, int(vocabulary))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    settings = StepSettings(LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM)
    measure(lambda: stepper.step([batch], settings), options.steps)


if __name__ == "__main__":
    main()
