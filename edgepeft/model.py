"""A bundle in use: prediction, generation and evaluation under an adapter that can be swapped at any time."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from edgepeft import generation, names, prediction
from edgepeft.adapter import Adapter
from edgepeft.adapters import Adapters, Loaded
from edgepeft.bundle import Bundle
from edgepeft.data import Data, Dataset, Row, collate, open_dataset
from edgepeft.engines.base import Batch, Engine, weighted_mean
from edgepeft.engines.choice import open_engine
from edgepeft.errors import ArgumentError, DataError
from edgepeft.labels import listed
from edgepeft.limits import MAX_THREADS
from edgepeft.prediction import Classification, Regression
from edgepeft.tensors import Array
from edgepeft.text import Message, Text


class Model:
    """A loaded bundle. Make one with `edgepeft.load`; safe to use from several threads.

    Attributes:
        bundle: The bundle.
        engine: The engine that runs it.
    """

    def __init__(self, bundle: Bundle, engine: Engine, adapter: Adapter) -> None:
        self.bundle = bundle
        self.engine = engine
        self._adapters = Adapters(bundle, engine, adapter)

    def __repr__(self) -> str:
        return f"<Model of {self.bundle!r} on engine {self.engine.name}, {self.adapter!r}>"

    @property
    def adapter(self) -> Adapter:
        """The adapter in use."""
        return self._adapters.active.adapter

    def use(self, adapter: str | Adapter) -> None:
        """Swaps the adapter; calls that are under way finish with the old one.

        Args:
            adapter: An adapter, or the name of one that `add_adapter` loaded.

        Raises:
            ArgumentError: No adapter has that name.
            AdapterError: The adapter is not made for this bundle; the old one stays in use.
        """
        self._adapters.active = self._adapters.find(adapter)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that `add_adapter` loaded, by name; read-only, and as they are now."""
        return self._adapters.named

    def add_adapter(self, name: str, adapter: Adapter | str | os.PathLike[str]) -> None:
        """Loads a further adapter, for `use` and for the `adapter` of other calls; it costs its tensors' bytes.

        Args:
            name: What it is called here. An adapter of that name is replaced; calls under way finish with the old.
            adapter: The adapter, or its folder.

        Raises:
            ArgumentError: The name is empty.
            AdapterError: The adapter is malformed, or not made for this bundle; nothing changes.
        """
        self._adapters.add(name, adapter)

    def delete_adapter(self, name: str) -> None:
        """Forgets a named adapter; if it is in use, it stays so until the next `use`.

        Raises:
            ArgumentError: No adapter has that name.
        """
        self._adapters.delete(name)

    def predict(self, batch: Batch, *, adapter: str | Adapter | None = None) -> dict[str, Array]:
        """Runs the model.

        Args:
            batch: The model's inputs by name, such as `input_ids` [batch, length] int64.
            adapter: For this call only: a name of `adapters`, or an adapter; by default the one in use.

        Returns:
            The model's outputs by name, such as `logits`.

        Raises:
            EngineError: An input is missing, or of the wrong type or shape.
            ArgumentError: No adapter has that name.
            AdapterError: The adapter is not made for this bundle.
        """
        return self.engine.run(names.INFER, batch, self._adapters.find(adapter).prepared)

    def classify(
        self, data: Data | Dataset, *, batch_size: int = 8, adapter: str | Adapter | None = None
    ) -> Iterator[Classification]:
        """The likeliest class of each row, in order, as they are computed.

        Args:
            data: One text or several, for a bundle with a tokenizer; or what `Trainer.fit` takes, labels left out,
                or what `open_data` opened for the graph "infer". With a tokenizer a `str` is a text, and a file is
                a `Path`.
            batch_size: Rows that are run at once.
            adapter: As for `predict`.

        Raises:
            ArgumentError: The bundle is no classifier, `batch_size` is less than 1, or no adapter has that name.
            DataError: A row is unusable; the message says which.
            EngineError: The model's scores are not finite.
        """
        if self.bundle.manifest.classes is None:
            raise ArgumentError(
                f"{self.bundle.path}: is no classifier with logits [batch, classes]; use predict."
            )
        loaded = self._adapters.find(adapter)
        labels = self._labels_of(loaded)
        rows = self._outputs(data, batch_size, loaded)
        return (prediction.classification(row["logits"], labels) for row in rows)

    def regress(
        self, data: Data | Dataset, *, batch_size: int = 8, adapter: str | Adapter | None = None
    ) -> Iterator[Regression]:
        """The numbers that a model with the loss "mse" gives for each row, in order, as they are computed.

        Args:
            data: As for `classify`.
            batch_size: Rows that are run at once.
            adapter: As for `predict`.

        Raises:
            ArgumentError: The bundle is no regression, `batch_size` is less than 1, or no adapter has that name.
            DataError: A row is unusable; the message says which.
        """
        manifest = self.bundle.manifest
        outputs = [port.name for port in manifest.graphs[names.INFER].outputs]
        if manifest.loss != "mse" or ("logits" not in outputs and len(outputs) > 1):
            raise ArgumentError(
                f"{self.bundle.path}: is no regression, its loss is {manifest.loss}; use predict."
            )
        name = "logits" if "logits" in outputs else outputs[0]
        labels = None if manifest.labels is None else tuple(manifest.labels)
        rows = self._outputs(data, batch_size, self._adapters.find(adapter))
        return (Regression(row[name], labels) for row in rows)

    def embed(
        self, data: Data | Dataset, *, batch_size: int = 8, adapter: str | Adapter | None = None
    ) -> Array:
        """The model's output `embedding` of each row.

        Args:
            data: As for `classify`.
            batch_size: Rows that are run at once.
            adapter: As for `predict`.

        Returns:
            [rows, width] float32.

        Raises:
            ArgumentError: The bundle gives no embedding, `batch_size` is less than 1, or no adapter has that name.
            DataError: A row is unusable; the message says which.
        """
        ports = self.bundle.manifest.graphs[names.INFER].outputs
        if not any(port.name == names.EMBEDDING and len(port.shape) == 2 for port in ports):
            given = ", ".join(f"{port.name} {port.shape}" for port in ports)
            raise ArgumentError(
                f"{self.bundle.path}: has no output {names.EMBEDDING!r} [batch, width], but {given}. Export a model with one."
            )
        rows = self._outputs(data, batch_size, self._adapters.find(adapter))
        return np.stack([row[names.EMBEDDING] for row in rows]).astype(np.float32, copy=False)

    def predict_rows(
        self, data: Data | Dataset, *, batch_size: int = 8, adapter: str | Adapter | None = None
    ) -> Iterator[dict[str, Array]]:
        """All outputs of each row by name, without the batch axis and without padding, as they are computed.

        Args:
            data: As for `classify`.
            batch_size: Rows that are run at once.
            adapter: As for `predict`.

        Raises:
            ArgumentError: `batch_size` is less than 1, or no adapter has that name.
            DataError: A row is unusable; the message says which.
        """
        return self._outputs(data, batch_size, self._adapters.find(adapter))

    def _outputs(self, data: Data | Dataset, batch_size: int, loaded: Loaded) -> Iterator[dict[str, Array]]:
        """Checks at once, and then computes as it is gone through."""
        _check_batch_size(batch_size)
        if isinstance(data, str) and self.text is not None:
            data = [data]
        opened = self._open(data, self._labels_of(loaded), names.INFER)
        inputs = self.bundle.manifest.data_inputs(names.INFER)
        ports = self.bundle.manifest.graphs[names.INFER].outputs

        def run() -> Iterator[dict[str, Array]]:
            for rows in opened.batches(batch_size):
                outputs = self.engine.run(names.INFER, self.collate(rows, names.INFER), loaded.prepared)
                yield from prediction.split(outputs, rows, inputs, ports)

        return run()

    def evaluate(
        self, data: Data | Dataset, batch_size: int = 8, *, adapter: str | Adapter | None = None
    ) -> dict[str, float]:
        """Mean loss over data, and the accuracy of a classifier.

        Args:
            data: As for `Trainer.fit`, or what `open_data` opened.
            batch_size: Rows that are run at once.
            adapter: As for `predict`.

        Raises:
            DataError: A row is unusable; the message says which.
            ArgumentError: `batch_size` is less than 1, or no adapter has that name.
        """
        _check_batch_size(batch_size)
        loaded = self._adapters.find(adapter)
        opened = self._open(data, self._labels_of(loaded), names.TRAIN)
        return self.evaluate_dataset(opened, batch_size, loaded.prepared)

    def evaluate_dataset(
        self, data: Dataset, batch_size: int, prepared: Any, before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Like `evaluate`, on data that is open and under an adapter that the engine has prepared.

        Args:
            data: The rows.
            batch_size: Rows computed at a time.
            prepared: The adapter.
            before_batch: Called before each batch; what it raises ends the evaluation.
        """
        losses: list[float] = []
        weights: list[float] = []
        right = 0
        for rows in data.batches(batch_size):
            before_batch()
            batch = self.collate(rows)
            outputs = self.engine.run(names.EVALUATE, batch, prepared)
            losses.append(float(outputs[names.LOSS]))
            weights.append(float(outputs[names.WEIGHT]))
            if self.bundle.manifest.task == "sequence_classification":
                named = outputs["logits"][:, : len(data.classes) or None]
                right += int((named.argmax(1) == batch[names.LABELS]).sum())
        counted = sum(weights)
        if not counted:
            raise DataError("no row has a label that counts: there is no loss to measure.")
        result = {
            "loss": weighted_mean(losses, weights),
            "counted": int(counted) if counted.is_integer() else counted,
            "rows": len(data),
        }
        if self.bundle.manifest.task == "sequence_classification":
            result["accuracy"] = right / counted
        return result

    def open_data(
        self,
        data: Data,
        max_length: int | None = None,
        graph: str = names.TRAIN,
        *,
        adapter: str | Adapter | None = None,
    ) -> Dataset:
        """Opens data of any kind for this model.

        Args:
            data: As for `Trainer.fit`.
            max_length: Longer rows are cut to this.
            graph: The graph that the rows are for; those for `infer` need no labels.
            adapter: Whose classes the labels are of; as for `predict`.

        Raises:
            DataError: The data cannot be read, or a row is unusable; the message says which.
            ArgumentError: `max_length` does not fit the model, or no adapter has that name.
            AdapterError: The adapter is not made for this bundle.
        """
        return self._open(data, self._labels_of(self._adapters.find(adapter)), graph, max_length)

    def _open(
        self,
        data: Data | Dataset,
        labels: Sequence[str] | None,
        graph: str,
        max_length: int | None = None,
    ) -> Dataset:
        manifest = self.bundle.manifest
        if isinstance(data, Dataset):
            wanted = [port.name for port in manifest.data_inputs(graph)]
            missing = next((name for name in wanted if name not in data.inputs), None)
            if missing is not None:
                raise ArgumentError(
                    f"{data.name}: was opened without {missing!r}; open it for graph {graph!r}."
                )
            labelled = manifest.loss == "cross_entropy" and names.LABELS in wanted
            if labelled and list(data.classes) != list(labels or []):
                theirs, ours = (listed(some, "without names") for some in (data.classes, labels or []))
                raise ArgumentError(
                    f"{data.name}: was opened for the classes {theirs}; the adapter has {ours}. "
                    "Open it again while that adapter is in use."
                )
            return data
        return open_dataset(data, manifest, self.text, labels, graph=graph, max_length=max_length)

    def collate(self, rows: Sequence[Row], graph: str = names.TRAIN) -> dict[str, Array]:
        """Rows as one batch for a graph."""
        info = self.bundle.manifest.text
        ports = self.bundle.manifest.data_inputs(graph)
        return collate(rows, ports, info.pad_token_id if info else 0)

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        adapter: str | Adapter | None = None,
    ) -> str:
        """Continues a prompt with a causal language model; the same seed gives the same text.

        Args:
            prompt: What the user says, put through the model's chat template if it has one; or messages, each
                with "role" and "content".
            max_new_tokens: Most tokens to add.
            temperature: 0 takes the best token every time; more draws, the higher the wilder.
            top_k: Draw among this many best tokens only.
            top_p: Draw among the best tokens that together have this probability only.
            repetition_penalty: More than 1 makes tokens that were there before less likely.
            stop: Texts that end the answer, and are not part of it.
            seed: Seed of the draws.
            adapter: As for `predict`.

        Raises:
            ArgumentError: A setting is out of range, no adapter has that name, or the bundle is no language model.
            DataError: The prompt leaves no room for an answer.
        """
        return "".join(
            self.stream(
                prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                stop=stop,
                seed=seed,
                adapter=adapter,
            )
        )

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        adapter: str | Adapter | None = None,
    ) -> Iterator[str]:
        """Like `generate`, in pieces as they come; the adapter is the one in use when it is called.

        Raises:
            ArgumentError: As `generate`, at once.
            DataError: As `generate`, at once.
        """
        generation.check_length(max_new_tokens)
        sampling = generation.Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        if isinstance(stop, str) or not all(stop):
            raise ArgumentError(f"stop is {stop!r}; expected a list of texts that are not empty.")
        text = self.text
        if text is None or self.bundle.manifest.task != "causal_lm":
            raise ArgumentError(f"{self.bundle.path}: is no language model with a tokenizer; use predict.")
        prepared = self._adapters.find(adapter).prepared
        ids = text.encode_prompt(prompt)
        room = text.info.max_length - len(ids)
        if not ids or room < 1:
            raise DataError(
                f"the prompt is {len(ids)} tokens long; expected 1 to {text.info.max_length - 1}."
            )
        tokens = self._tokens(ids, min(max_new_tokens, room), sampling, prepared)
        answer = itertools.takewhile(lambda token: token not in text.info.eos_token_ids, tokens)
        return generation.pieces(answer, text.decode, stop)

    def _tokens(
        self, ids: list[int], most: int, sampling: generation.Sampling, prepared: Any
    ) -> Iterator[int]:
        """The tokens that follow, chosen one by one."""
        choose = generation.chooser(sampling)
        scores = self._scores(prepared)
        seen, new = list(ids), ids
        for _ in range(most):
            token = choose(scores(new), seen)
            yield token
            new = [token]
            seen.append(token)

    def _scores(self, prepared: Any) -> Callable[[list[int]], Array]:
        """A function from further tokens to the scores of the one after them: cached where the bundle can."""
        if names.DECODE in self.bundle.manifest.graphs:
            decoder = self.engine.decoder(prepared)
            return lambda new: decoder.next(np.array(new, dtype=np.int64))
        seen: list[int] = []

        def scores(new: list[int]) -> Array:
            seen.extend(new)
            tokens = np.array([seen], dtype=np.int64)
            batch = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
            last: Array = self.engine.run(names.INFER, batch, prepared)["logits"][0, -1]
            return last

        return scores

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in order, where they have names: those of the adapter in use, or else the bundle's."""
        return self._labels_of(self._adapters.active)

    def _labels_of(self, loaded: Loaded) -> tuple[str, ...] | None:
        labels = self.bundle.manifest.labels
        return loaded.adapter.labels or (None if labels is None else tuple(labels))

    @cached_property
    def text(self) -> Text | None:
        """The bundle's tokenizer, if it has one."""
        return Text(self.bundle) if self.bundle.manifest.text is not None else None


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ArgumentError(f"batch_size is {batch_size}; expected 1 or more.")


def load(
    bundle: Bundle | str | os.PathLike[str],
    adapter: Adapter | str | os.PathLike[str] | None = None,
    engine: Literal["auto", "stock", "ort-training"] = "auto",
    threads: int | None = None,
) -> Model:
    """Loads a bundle for use.

    Args:
        bundle: An open bundle, or its folder.
        adapter: The adapter to start with, or its folder; by default the bundle's own, which changes nothing.
        engine: "stock" is the plain onnxruntime package, "ort-training" is onnxruntime-training; "auto" takes the one
            that is installed.
        threads: Threads that one call computes with; by default one a physical core that the process may use.

    Raises:
        BundleError: The bundle is not whole.
        AdapterError: The adapter is malformed, or not made for this bundle.
        ArgumentError: An argument of another kind, no such engine, or a number of threads that makes no sense.
        EngineError: The engine cannot run here: another package is installed, or the bundle lacks what it takes.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise ArgumentError(f"threads is {threads!r}; expected 1 to {MAX_THREADS}.")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if adapter is None:
        adapter = opened.initial_adapter()
    elif not isinstance(adapter, Adapter):
        adapter = Adapter.load(adapter)
    return Model(opened, open_engine(opened, engine, threads), adapter)
