"""An engine that runs in another Python, as engine ort-training must: tests use it like one of their own process.

As a program: the other end, which answers calls on its standard input.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

#: Python of the environment that has onnxruntime-training; `make test` sets it.
PYTHON = "EDGEPEFT_ORT_TRAINING_PYTHON"


class RemoteEngine:
    """Calls a bundle's engine in the Python that `PYTHON` names, one call at a time."""

    def __init__(self, bundle: Path) -> None:
        tests = Path(__file__).parent
        self._process = subprocess.Popen(
            [os.environ[PYTHON], __file__, bundle],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        )
        self.name: str = self._call("name")
        self.breaks_off_steps = False
        self.workers: set[int] = set()

    def close(self) -> None:
        """Ends the other process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def prepare(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(tensors)

    def run(self, graph: str, batch: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._call("run", graph, dict(batch), adapter)
        return found

    def stepper(self, state: Any) -> "_RemoteStepper":
        self._call("stepper", state)
        return _RemoteStepper(self)

    def decoder(self, adapter: Mapping[str, Any]) -> "_RemoteDecoder":
        self._call("decoder", adapter)
        return _RemoteDecoder(self)

    def break_off(self) -> None:
        """Nothing: no test of this engine sends signals."""

    def _call(self, what: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _write(self._process.stdin, (what, arguments))
        result = pickle.load(self._process.stdout)  # noqa: S301 - our own other half
        if isinstance(result, Exception):
            raise result
        return result


class _RemoteStepper:
    """The one training run of a remote engine."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def step(self, batches: Sequence[Mapping[str, Any]], settings: Any) -> Any:
        return self._engine._call("step", [dict(batch) for batch in batches], settings)

    def state(self) -> Any:
        return self._engine._call("state")


class _RemoteDecoder:
    """The one text in progress of a remote engine."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def next(self, ids: Any) -> Any:
        return self._engine._call("next", ids)


def _write(stream: BinaryIO, content: Any) -> None:
    pickle.dump(content, stream)
    stream.flush()


def _serve(bundle: Path) -> None:
    import edgepeft

    engine = edgepeft.load(bundle, engine="ort-training", threads=2).engine
    steppers: list[Any] = []
    decoders: list[Any] = []

    def step(batches: Sequence[Mapping[str, Any]], settings: Any) -> Any:
        return steppers[-1].step(batches, settings)

    def state() -> Any:
        return steppers[-1].state()

    def next_scores(ids: Any) -> Any:
        return decoders[-1].next(ids)

    calls = {
        "name": lambda: engine.name,
        "run": lambda graph, batch, adapter: engine.run(graph, batch, engine.prepare(adapter)),
        "stepper": lambda state: steppers.append(engine.stepper(state)),
        "step": step,
        "state": state,
        "decoder": lambda adapter: decoders.append(engine.decoder(engine.prepare(adapter))),
        "next": next_scores,
    }
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    while True:
        try:
            what, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own other half
        except EOFError:
            return
        try:
            result = calls[what](*arguments)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            result = error
        _write(answers, result)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
