"""The estimate of a training's memory: what it adds up, and where it says nothing."""

from pathlib import Path

import msgspec
import pytest

import edgepeft
from edgepeft import estimate, names
from edgepeft.engines.choice import ORT_TRAINING
from edgepeft.errors import BundleError
from edgepeft.manifest import Manifest, OrtTrainingInfo, decode, encode

MEMORY = {"1": 1000.0, "batch": 100.0, "batch*length": 10.0, "batch*length*length": 1.0}


@pytest.fixture
def manifest(handmade: Path) -> Manifest:
    return edgepeft.Bundle.open(handmade / "chat").manifest


def with_memory(manifest: Manifest, memory: object) -> Manifest:
    """The manifest with another memory of its train graph."""
    train = msgspec.structs.replace(manifest.graphs[names.TRAIN], memory=memory)
    return msgspec.structs.replace(manifest, graphs={**manifest.graphs, names.TRAIN: train})


def test_the_polynomial_is_evaluated(manifest: Manifest) -> None:
    """Each term by its own sizes."""
    found = estimate.training_memory(with_memory(manifest, MEMORY), batch_size=3, length=5)
    assert found is not None
    assert found.activations == round(1.25 * (1000 + 3 * 100 + 15 * 10 + 75 * 1))


def test_each_engine_has_its_own_graph(manifest: Manifest) -> None:
    """Its file, its tensors, and how many of them are alive beside what is foretold."""
    file = manifest.graphs[names.INFER].file
    info = OrtTrainingInfo(graphs={names.TRAIN: file}, checkpoint=file, memory={"batch": 7000.0})
    told = msgspec.structs.replace(with_memory(manifest, MEMORY), ort_training=info)
    stock = estimate.training_memory(told, 2, 3)
    other = estimate.training_memory(told, 2, 3, engine=ORT_TRAINING)
    assert stock is not None
    assert other is not None
    assert stock == estimate.training_memory(with_memory(manifest, MEMORY), 2, 3)
    assert other.activations == round(1.65 * 2 * 7000)
    sizes = [manifest.files[name].size for name in (manifest.graphs[names.TRAIN].file, file)]
    assert stock.graphs - other.graphs == 40 * (sizes[0] - sizes[1])
    silent = msgspec.structs.replace(told, ort_training=msgspec.structs.replace(info, memory=None))
    assert estimate.training_memory(silent, 2, 3, engine=ORT_TRAINING) is None


def test_the_parts_add_up(manifest: Manifest) -> None:
    """The base once; the adapter, its gradients and moments before and after an update."""
    told = with_memory(manifest, MEMORY)
    found = estimate.training_memory(told, 1, 1)
    assert found is not None
    assert found.base == manifest.files[names.BASE].size
    adapter = 4 * (2 * 16 + 33 * 2)
    assert found.adapter == adapter * 14
    parts = (found.runtime, found.base, found.graphs, found.tokenizer, found.adapter, found.activations)
    assert found.total == pytest.approx(sum(parts))
    assert found.tokenizer > 0
    lighter = estimate.training_memory(told, 1, 1, optimizer="sgd")
    assert lighter is not None
    assert lighter.adapter == adapter * 9
    assert lighter.graphs < found.graphs


def test_a_model_without_text_has_no_tokenizer(handmade: Path) -> None:
    """Nothing is added for it."""
    plain = edgepeft.Bundle.open(handmade / "regression").manifest
    found = estimate.training_memory(with_memory(plain, MEMORY), 1)
    assert found is not None
    assert found.tokenizer == 0


def test_nothing_is_said_where_nothing_is_known(manifest: Manifest) -> None:
    """An exporter that could not tell, and a bundle that does not train."""
    assert estimate.training_memory(with_memory(manifest, None), 1) is None
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != names.TRAIN}
    assert estimate.training_memory(msgspec.structs.replace(manifest, graphs=graphs), 1) is None


def test_the_manifest_carries_it(manifest: Manifest) -> None:
    """Through JSON and back."""
    told = with_memory(manifest, MEMORY)
    assert decode(encode(told)) == told


@pytest.mark.parametrize("memory", [{"batch": -1.0}, {"rows": 1.0}, {"1": 1e30}, {"1": "many"}, [1.0]])
def test_a_memory_that_is_none(manifest: Manifest, memory: object) -> None:
    """Negative, of another term, absurd, no number: refused with the manifest."""
    with pytest.raises(BundleError, match="memory"):
        decode(msgspec.json.encode(with_memory(manifest, memory)))


def test_small_bundles_tell_about_themselves(bundles: Path) -> None:
    """More rows and longer ones take more; an image has no length."""
    llama = edgepeft.Bundle.open(bundles / "tiny-llama").manifest
    sizes = [estimate.training_memory(llama, *point) for point in ((1, 16), (4, 16), (4, 128))]
    totals = [size.total for size in sizes if size is not None]
    assert totals == sorted(set(totals))
    assert len(totals) == 3
    assert estimate.has_length(llama.graphs[names.TRAIN])
    assert not estimate.has_length(edgepeft.Bundle.open(bundles / "conv-net").manifest.graphs[names.TRAIN])
