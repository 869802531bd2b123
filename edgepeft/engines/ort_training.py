"""Engine *ort-training*: the same bundle on onnxruntime-training's on-device API, where that package has wheels.

Its `Module` computes loss and gradients; everything else, from the optimizer to generation, is done by the bundle's
graphs, so that adapters, optimizer state and numbers are those of the stock engine. The package is an old ONNX Runtime:
the graphs that it runs are in the bundle in a form that it knows, and take the frozen weights as inputs.
"""

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgepeft import names, ort_package
from edgepeft.bundle import Bundle
from edgepeft.engines.base import Batch
from edgepeft.engines.sessions import SessionEngine, Values, reason, wrap
from edgepeft.errors import EngineError
from edgepeft.manifest import OrtTrainingInfo
from edgepeft.onnx_external import check_self_contained
from edgepeft.tensors import Array


class OrtTrainingEngine(SessionEngine):
    """Runs a bundle with onnxruntime-training. See `edgepeft.engines.base.Engine`.

    `break_off` does not reach a training step, which this package cannot break off: it runs to its end.
    """

    name = "ort-training"
    breaks_off_steps = False
    remedy = "Add it again on the workstation: edgepeft-export ort-training."

    def __init__(self, bundle: Bundle, info: OrtTrainingInfo, threads: int | None) -> None:
        super().__init__(bundle, threads)
        self._info = info
        self._training: _Training | None = None
        self._training_lock = threading.Lock()

    def run(self, graph: str, batch: Batch, adapter: Values) -> dict[str, Array]:
        """Runs a graph and gives its outputs as arrays.

        Raises:
            EngineError: An input is missing, or of the wrong type or shape.
        """
        if graph != names.TRAIN:
            return super().run(graph, batch, adapter)
        outputs = self.call_on(graph, batch, adapter)
        # A gradient is an array of ours, which lives as long as the value that wraps it.
        return {name: np.array(value.numpy()) for name, value in outputs.items()}

    def call_on(self, graph: str, batch: Batch, adapter: Values) -> dict[str, ort.OrtValue]:
        """Like `run`, with the outputs left where ONNX Runtime has them."""
        if graph != names.TRAIN:
            return super().call_on(graph, batch, adapter)
        feeds = self._data(graph, batch)
        with self._training_lock:  # the package keeps adapter and gradients in one place
            if self._training is None:
                with self._starting_workers():
                    self._training = self._open_training()
            return self._training.gradients(feeds, adapter)

    def call(self, graph: str, feeds: Values) -> dict[str, ort.OrtValue]:
        """Runs a graph on ONNX Runtime's own values."""
        weights = self._bundle.manifest.graph(graph).weights
        return super().call(graph, {**feeds, **{name: self._weights[name] for name in weights}})

    def _open(self, graph: str) -> ort.InferenceSession:
        file = self._info.graphs.get(graph, self._bundle.manifest.graph(graph).file)
        return self._session_of(graph, self._checked(file), self._session_options())

    def _open_training(self) -> "_Training":
        model, checkpoint = self._info.graphs[names.TRAIN], self._info.checkpoint
        files = {model: self._checked(model), checkpoint: self._bundle.asset(checkpoint)}
        try:
            training = _Training(files, self._info, self._session_options(), self._weights)
        except OSError as error:
            raise EngineError(
                f"onnxruntime-training takes files, and there is no place for them: {error}. Set TMPDIR to a folder "
                "that can be written."
            ) from error
        except Exception as error:  # onnxruntime's errors have no common base
            raise EngineError(
                f"{self._bundle.path}: onnxruntime-training {ort.__version__} refused the training model: "
                f"{reason(error)} Make it again: edgepeft-export ort-training."
            ) from error
        ports = {port.name for port in self._bundle.manifest.data_inputs(names.TRAIN)}
        training.check(self._bundle.manifest.adapter_shapes, ports, str(self._bundle.path))
        return training

    def _checked(self, file: str) -> bytes:
        content = self._bundle.asset(file)
        check_self_contained(content, f"{self._bundle.path}/{file}")
        return content


class _Training:
    """The package's `Module`, its checkpoint, and the frozen weights that it is fed at each call."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        info: OrtTrainingInfo,
        options: ort.SessionOptions,
        weights: Values,
    ) -> None:
        ort_package.keep_torch_out()
        from onnxruntime.training.api import CheckpointState, Module  # noqa: PLC0415 - not in every package

        # The package takes paths only. What is written here was verified, and nobody else can write beside it.
        with tempfile.TemporaryDirectory(prefix="edgepeft-") as folder:
            paths = {file: Path(folder) / str(number) for number, file in enumerate(files)}
            for file, content in files.items():
                paths[file].write_bytes(content)
            self._state = CheckpointState.load_checkpoint(paths[info.checkpoint])
            self._module = Module(paths[info.graphs[names.TRAIN]], self._state, session_options=options)
        # The checkpoint has names and shapes only, and takes values of its parameters one by one once it has any.
        nothing = np.zeros(self._module.get_parameters_size(trainable_only=False), dtype=np.float32)
        buffer = wrap(nothing)._ortvalue  # noqa: SLF001 - the package hands on what it is given
        self._module.copy_buffer_to_parameters(buffer, trainable_only=False)
        self._order: list[str] = self._module.input_names()
        self._weights = weights

    def check(self, adapter: Mapping[str, tuple[int, ...]], data: set[str], where: str) -> None:
        """Sees to it that the model trains the bundle's adapter, from the bundle's data and weights.

        Raises:
            EngineError: It does not.
        """
        shapes = {name: tuple(value.data.shape) for name, value in self._state.parameters}
        known = data | self._weights.keys()
        strange = next((name for name in self._order if name not in known), None)
        if shapes != dict(adapter) or strange is not None:
            raise EngineError(
                f"{where}: the training model is not the bundle's: expected its adapter, data and weights, got "
                f"{len(shapes)} trained tensors{f' and the input {strange!r}' if strange else ''}. Make it again: "
                "edgepeft-export ort-training."
            )

    def gradients(self, feeds: Values, adapter: Values) -> dict[str, ort.OrtValue]:
        """The outputs of the bundle's graph "train"."""
        for name, value in adapter.items():
            self._state.parameters[name] = value.numpy()
        self._module.lazy_reset_grad()
        try:
            loss, weight = self._module(
                *(feeds[name] if name in feeds else self._weights[name] for name in self._order)
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise EngineError(
                f"graph {names.TRAIN!r}: onnxruntime-training refused the batch: {reason(error)}"
            ) from error
        # What the package gives is its own buffer, which the next batch is computed in.
        outputs = {
            names.gradient(name): wrap(np.array(self._state.parameters[name].grad)) for name in adapter
        }
        return outputs | {names.LOSS: loss, names.WEIGHT: weight}
