"""What every engine on ONNX Runtime shares: sessions, calls, updates and decoding by the bundle's graphs."""

import abc
import contextlib
import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgepeft import arrays, board, names
from edgepeft.bundle import Bundle
from edgepeft.engines.base import Batch, StepResult, StepSettings, TrainState, weighted_mean
from edgepeft.errors import EngineError, NonFiniteLossError
from edgepeft.manifest import Manifest, Port
from edgepeft.tensors import Array

Values = Mapping[str, ort.OrtValue]

#: Every error comes as an exception too, and is told once.
_FATAL_ONLY = 4
#: ONNX Runtime's code for an arena that doubles as it grows.
_NEXT_POWER_OF_TWO = 0


class SessionEngine(abc.ABC):
    """Runs a bundle's graphs in sessions of ONNX Runtime, frozen weights held once for all of them.

    What differs between packages is how a session is opened. See `edgepeft.engines.base.Engine`.
    """

    name: str
    breaks_off_steps = True
    #: What to do about a graph that is refused.
    remedy = "Update onnxruntime, or export the bundle again."

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        _share_arena()
        self._bundle = bundle
        # ONNX Runtime's own choice heeds neither what the process is bound to nor its share of time.
        self._threads = board.usable_cores() if threads is None else threads
        self._weights = {name: wrap(array) for name, array in bundle.weights.items()}
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()
        self.workers: set[int] = set()
        self._options = ort.RunOptions()

    def prepare(self, tensors: Mapping[str, Array]) -> Values:
        """Wraps an adapter's arrays, which must not change afterwards, without copying them."""
        return {name: wrap(array) for name, array in tensors.items()}

    def run(self, graph: str, batch: Batch, adapter: Values) -> dict[str, Array]:
        """Runs a graph and gives its outputs as arrays.

        Raises:
            EngineError: An input is missing, or of the wrong type or shape.
        """
        return {name: value.numpy() for name, value in self.call_on(graph, batch, adapter).items()}

    def stepper(self, state: TrainState) -> "GraphStepper":
        """Starts training from a state."""
        return GraphStepper(self, self._bundle.manifest.adapter_names, state)

    def decoder(self, adapter: Values) -> "GraphDecoder":
        """Starts at the beginning of a text."""
        return GraphDecoder(self, self._bundle.manifest, adapter)

    def break_off(self) -> None:
        """Has the calls that are running fail at their next operator."""
        running, self._options = self._options, ort.RunOptions()
        running.terminate = True

    def call_on(self, graph: str, batch: Batch, adapter: Values) -> dict[str, ort.OrtValue]:
        """Like `run`, with the outputs left where ONNX Runtime has them."""
        return self.call(graph, self._data(graph, batch) | dict(adapter))

    def call(self, graph: str, feeds: Values) -> dict[str, ort.OrtValue]:
        """Runs a graph on ONNX Runtime's own values."""
        session = self._session(graph)
        outputs = [port.name for port in self._bundle.manifest.graph(graph).outputs]
        try:
            values = session.run_with_ort_values(outputs, feeds, self._options)
        except Exception as error:  # onnxruntime's errors have no common base
            raise EngineError(f"graph {graph!r}: ONNX Runtime refused the batch: {reason(error)}") from error
        return dict(zip(outputs, values, strict=True))

    def _data(self, graph: str, batch: Batch) -> dict[str, ort.OrtValue]:
        """A graph's data inputs from a batch, checked."""
        ports = self._bundle.manifest.data_inputs(graph)
        return {port.name: _value(port, graph, batch) for port in ports}

    def _session(self, graph: str) -> ort.InferenceSession:
        with self._lock:
            if graph not in self._sessions:
                with self._starting_workers():
                    self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    @contextlib.contextmanager
    def _starting_workers(self) -> Iterator[None]:
        """Notes the threads that come into being meanwhile: ONNX Runtime does not tell its own."""
        before = _threads()
        yield
        self.workers |= _threads() - before

    @abc.abstractmethod
    def _open(self, graph: str) -> ort.InferenceSession:
        """Opens a graph of the bundle."""

    def _session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = self._threads
        # A plan of all buffers ahead, for one shape of batch, takes half as much memory again as buffers that
        # are given back to the arena as soon as they are free, and more time.
        options.enable_mem_pattern = False
        # As near to the graph's order as there is: by its own, ONNX Runtime holds up to a third more at once.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A packed copy of each weight would double the memory, for a few per cent of time.
        options.add_session_config_entry("session.disable_prepacking", "1")
        return options

    def _session_of(self, graph: str, content: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
        """A session of a graph's verified content.

        Raises:
            EngineError: ONNX Runtime refuses it.
        """
        try:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise EngineError(
                f"{self._bundle.path}: ONNX Runtime {ort.__version__} refused graph {graph!r}: {reason(error)} "
                f"{self.remedy}"
            ) from error


class GraphDecoder:
    """A text in progress, by the decode graph. See `edgepeft.engines.base.Decoder`."""

    def __init__(self, engine: SessionEngine, manifest: Manifest, adapter: Values) -> None:
        self._engine = engine
        self._adapter = adapter
        ports = manifest.data_inputs(names.DECODE)
        layers = range((len(ports) - 1) // 2)
        parts = [(part, layer) for layer in layers for part in ("key", "value")]
        self._grown = {names.past(*part): names.present(*part) for part in parts}
        self._cache = {
            port.name: wrap(
                np.empty([0 if isinstance(size, str) else size for size in port.shape], np.float32)
            )
            for port in ports
            if port.name in self._grown
        }

    def next(self, ids: Array) -> Array:
        """Reads further tokens. See `Decoder.next`."""
        tokens = ort.OrtValue.ortvalue_from_numpy(np.asarray(ids, dtype=np.int64)[None])
        outputs = self._engine.call(names.DECODE, {"input_ids": tokens, **self._cache, **dict(self._adapter)})
        self._cache = {past: outputs[present] for past, present in self._grown.items()}
        scores: Array = outputs["logits"].numpy()[0, -1]
        return scores


class GraphStepper:
    """A training run, by the update graphs. See `edgepeft.engines.base.Stepper`."""

    def __init__(self, engine: SessionEngine, tensors: Sequence[str], state: TrainState) -> None:
        self._engine = engine
        self._names = tensors
        self._optimizer = state.optimizer
        self._step = state.step
        kept = {names.slot(kind, name): slot[name] for kind, slot in state.slots.items() for name in tensors}
        values = {name: state.adapter[name] for name in tensors} | kept
        self._values = {name: wrap(np.array(value, dtype=np.float32)) for name, value in values.items()}

    def step(self, batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """Makes one update. See `Stepper.step`."""
        adapter = {name: self._values[name] for name in self._names}
        gradients, losses, weights = self._mean_gradients(batches, adapter)
        if not gradients:
            raise NonFiniteLossError(
                f"step {self._step + 1}: no label counts, so there is no loss. Look for a row without labels."
            )
        loss = weighted_mean(losses, weights)
        scalars: dict[str, Array] = {names.STEP: np.array(self._step + 1, dtype=np.int64)}
        scalars |= {
            name: np.array(getattr(settings, name), dtype=np.float64)
            for name in names.OPTIMIZERS[self._optimizer].settings
        }
        feeds = (
            self._values
            | gradients
            | {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in scalars.items()}
        )
        updated = self._engine.call(names.update_graph(self._optimizer), feeds)
        norm = float(updated[names.GRADIENT_NORM].numpy())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteLossError(
                f"step {self._step + 1}: the loss is {loss}, the gradient's norm {norm}, at learning rate "
                f"{settings.learning_rate:g}. Lower the learning rate, or look for huge values in the data."
            )
        self._values = {name: updated[names.new(name)] for name in self._values}
        self._step += 1
        return StepResult(loss, float(sum(weights)), norm, settings.learning_rate)

    def state(self) -> TrainState:
        """A copy of the state after the last update."""

        def copy(name: str) -> Array:
            return np.array(self._values[name].numpy())

        slots = {
            kind: {name: copy(names.slot(kind, name)) for name in self._names}
            for kind in names.OPTIMIZERS[self._optimizer].slots
        }
        return TrainState(self._optimizer, {name: copy(name) for name in self._names}, slots, self._step)

    def _mean_gradients(
        self, batches: Sequence[Batch], adapter: Values
    ) -> tuple[dict[str, ort.OrtValue], list[float], list[float]]:
        """Gradients over all batches, each weighted by what it counts, with the losses and weights.

        A batch that counts nothing is left out: its gradient may be NaN, which no weight makes nothing. If none counts
        anything, there are no gradients.
        """
        mean: dict[str, ort.OrtValue] = {}
        losses: list[float] = []
        weights: list[float] = []
        total: ort.OrtValue | None = None
        for batch in batches:
            outputs = self._engine.call_on(names.TRAIN, batch, adapter)
            losses.append(float(outputs[names.LOSS].numpy()))
            weights.append(float(outputs[names.WEIGHT].numpy()))
            if not weights[-1]:
                continue
            gradients = {names.gradient(name): outputs[names.gradient(name)] for name in self._names}
            if total is None:
                mean, total = gradients, outputs[names.WEIGHT]
                continue
            feeds = {names.accumulated(name): mean[names.gradient(name)] for name in self._names}
            feeds |= gradients
            feeds |= {names.ACCUMULATED_WEIGHT: total, names.WEIGHT: outputs[names.WEIGHT]}
            new = self._engine.call(names.ACCUMULATE, feeds)
            mean = {names.gradient(name): new[names.new(names.accumulated(name))] for name in self._names}
            total = new[names.new(names.ACCUMULATED_WEIGHT)]
        return mean, losses, weights


def _threads() -> set[int]:
    """The system's numbers of this process's threads, where it tells them."""
    try:
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


@functools.cache
def _share_arena() -> None:
    """Has all sessions of this process take their buffers from one arena: a step's serve an evaluation next."""
    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    growth = ort.OrtArenaCfg({"arena_extend_strategy": _NEXT_POWER_OF_TWO})
    ort.create_and_register_allocator(cpu, growth)


def _value(port: Port, graph: str, batch: Batch) -> ort.OrtValue:
    """A graph's input from a batch, checked."""
    name = port.name
    if name not in batch:
        raise EngineError(
            f"graph {graph!r} needs the input {name!r} {port.shape} {port.dtype}; got {sorted(batch)}."
        )
    try:
        array = arrays.convert(batch[name], port.dtype)
    except ValueError as error:
        raise EngineError(f"input {name!r} is no {port.dtype} array: {error}.") from error
    fits = array.ndim == len(port.shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        raise EngineError(f"input {name!r}: expected shape {port.shape}, got {list(array.shape)}.")
    return ort.OrtValue.ortvalue_from_numpy(array)


def wrap(array: Array) -> ort.OrtValue:
    """Wraps an array without copying it; ONNX Runtime keeps the array alive."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says."""
    return str(error).strip().splitlines()[0]
