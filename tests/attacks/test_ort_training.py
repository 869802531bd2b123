"""Bundles whose files for engine ort-training would have an old ONNX Runtime read elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from protobuf import field

import edgepeft
from edgepeft import manifest, names
from edgepeft.engines.ort_training import OrtTrainingEngine
from edgepeft.errors import BundleError

SECRET = b"\x00" * 64
BATCH = {"image": np.zeros((1, 1, 8, 8), np.float32), "labels": np.zeros(1, np.int64)}


def pointing_to(location: str) -> bytes:
    """A model's end that adds an initializer, [16] float32, which lies in another file."""
    entries = {"location": location, "offset": "0", "length": str(len(SECRET))}
    external = b"".join(
        field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items()
    )
    tensor = bytes([1 << 3, 16, 2 << 3, 1]) + field(8, b"secret") + external + bytes([14 << 3, 1])
    return field(7, field(5, tensor))


def parent(bundle: Path, secret: Path) -> str:
    del bundle
    return f"../../{secret.name}"


def absolute(bundle: Path, secret: Path) -> str:
    del bundle
    return str(secret)


def symbolic_link(bundle: Path, secret: Path) -> str:
    (bundle / "ort-training" / "inside").symlink_to(secret)
    return "inside"


def hard_link(bundle: Path, secret: Path) -> str:
    (bundle / "ort-training" / "inside").hardlink_to(secret)
    return "inside"


@pytest.fixture
def forged(bundles: Path, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """A copy of a bundle with one file changed, and its hash too: the manifest vouches for what is there."""

    def forge(graph: str, added: bytes) -> Path:
        bundle = tmp_path / "bundle"
        content = json.loads((bundle / names.MANIFEST).read_text())
        file = bundle / content["ort_training"]["graphs"].get(graph, names.graph_file(graph))
        file.write_bytes(file.read_bytes() + added)
        listed = {path: bundle / path for path in content["files"]}
        extra = bundle / "ort-training" / "inside"
        if extra.is_file() and not extra.is_symlink():
            listed["ort-training/inside"] = extra
        for path, place in listed.items():
            entry = manifest.file_entry(place)
            content["files"][path] = {"size": entry.size, "sha256": entry.sha256}
        (bundle / names.MANIFEST).write_text(json.dumps(content))
        return bundle

    shutil.copytree(bundles / "conv-net", tmp_path / "bundle")
    (tmp_path / "secret.bin").write_bytes(SECRET)
    return forge


#: What engine ort-training runs: its own graphs, and the bundle's that need no older form.
GRAPHS = [
    names.TRAIN,
    names.EVALUATE,
    names.INFER,
    names.ACCUMULATE,
    *map(names.update_graph, names.OPTIMIZERS),
]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("link", [parent, absolute, hard_link], ids=lambda link: link.__name__)
def test_another_file_is_not_read(
    forged: Callable[[str, bytes], Path], tmp_path: Path, link: Callable[[Path, Path], str], graph: str
) -> None:
    """`..`, an absolute path, and a hard link that the manifest lists as a file of the bundle."""
    location = link(tmp_path / "bundle", tmp_path / "secret.bin")
    bundle = edgepeft.Bundle.open(forged(graph, pointing_to(location)))
    assert bundle.manifest.ort_training is not None
    engine = OrtTrainingEngine(bundle, bundle.manifest.ort_training, 1)
    adapter = engine.prepare(bundle.initial_adapter().tensors)
    own = graph in bundle.manifest.ort_training.graphs
    call = (lambda: engine.run(graph, BATCH, adapter)) if own else (lambda: engine.call(graph, {}))
    with pytest.raises(BundleError, match=rf"/{graph}\.onnx: a tensor of it lies in another file"):
        call()


def test_a_symbolic_link_is_no_part_of_a_bundle(forged: Callable[[str, bytes], Path], tmp_path: Path) -> None:
    """It is refused before any graph is looked at."""
    location = symbolic_link(tmp_path / "bundle", tmp_path / "secret.bin")
    bundle = forged(names.TRAIN, pointing_to(location))
    with pytest.raises(BundleError, match="'ort-training/inside' is not in the manifest"):
        edgepeft.Bundle.open(bundle)


@pytest.mark.parametrize("graph", [names.TRAIN, names.INFER])
def test_a_file_that_was_swapped(bundles: Path, tmp_path: Path, graph: str) -> None:
    """A file that is not the manifest's is refused when the bundle is opened."""
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles / "conv-net", bundle)
    path = bundle / f"ort-training/{graph}.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{graph}.onnx: was altered"):
        edgepeft.Bundle.open(bundle)
