"""The manifest: what comes back, what contradicts itself. What a forger may try is in tests/attacks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from foreign_files import LORA_A, LORA_B, write_bundle

import edgepeft
from edgepeft import manifest as schema
from edgepeft import names
from edgepeft.errors import BundleError
from edgepeft.manifest import Manifest

OTHER_SHA256 = "0" * 64


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The manifest of a sound bundle."""
    return write_bundle(tmp_path / "bundle")


def test_a_manifest_comes_back(manifest: Manifest) -> None:
    """Every field survives, and the same manifest gives the same bytes."""
    content = schema.encode(manifest)
    assert schema.decode(content) == manifest
    assert schema.encode(schema.decode(content)) == content
    assert json.loads(content)["adapter"]["tensors"][0]["name"] == LORA_A


def test_images_are_described(manifest: Manifest) -> None:
    """The field may be missing, as in bundles that take no images, and comes back where it is there."""
    content = json.loads(schema.encode(manifest))
    del content["image"]
    assert schema.decode(json.dumps(content).encode()).image is None
    _image(width=4096)(content)
    image = schema.decode(json.dumps(content).encode()).image
    assert image is not None
    assert (image.channels, image.width, image.mean) == (3, 4096, [0.5, 0.5, 0.5])


def test_a_manifest_is_read_only(manifest: Manifest) -> None:
    """What was verified stays what was verified."""
    with pytest.raises(AttributeError, match="immutable"):
        manifest.task = "generic"  # type: ignore[misc]


def test_adapter_tensors_are_told_from_data(manifest: Manifest) -> None:
    """The order is that of every graph; what is left of a graph's inputs is data."""
    assert manifest.adapter_names == (LORA_A, LORA_B)
    assert [port.name for port in manifest.data_inputs(names.INFER)] == ["input_ids"]


def test_files_are_described_alike_in_memory_and_on_disk(tmp_path: Path) -> None:
    """The exporter hashes files, the device buffers; the empty file's hash is well known."""
    (tmp_path / "file").write_bytes(b"content")
    assert schema.file_entry(tmp_path / "file") == schema.file_entry(memoryview(b"content"))
    empty = schema.file_entry(b"")
    assert (empty.size, empty.sha256[:16]) == (0, "e3b0c44298fc1c14")


def test_the_base_id_is_that_of_weights_and_graph() -> None:
    """It is a formula that other programs can follow, so it is pinned; it depends on both."""
    assert (
        schema.base_id("a" * 64, "b" * 64)
        == "913f9338fb6c17253f3a14816fc08d52522454bfc19a8c99538a197cfb23fb41"
    )
    assert len({schema.base_id(one, two) for one in ("a", "b") for two in ("a", "b")}) == 4


Change = Callable[[dict[str, Any]], object]


def _replace(path: str, value: object) -> Change:
    """A change of one field, by its path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = content
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def _image(**changes: object) -> Change:
    """Makes the graphs take images, and says how one is prepared."""
    image = {"input": "image", "channels": 3, "height": 8, "width": 8, "mean": [0.5] * 3, "std": [0.5] * 3}

    def change(content: dict[str, Any]) -> None:
        port = {"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, "width"]}
        for graph in content["graphs"].values():
            graph["inputs"].append(port)
        content["image"] = image | changes

    return change


WRONG: dict[str, tuple[Change, str]] = {
    # versions
    "no version": (
        lambda content: content.pop("schema_version"),
        "expected a whole number as schema_version",
    ),
    "version text": (_replace("schema_version", "1"), "expected a whole number as schema_version, got '1'"),
    "version true": (
        _replace("schema_version", True),
        "expected a whole number as schema_version, got 'True'",
    ),
    "newer": (_replace("schema_version", 2), "schema version 2; this edgepeft reads 1. Update edgepeft"),
    "older": (_replace("schema_version", 0), "schema version 0; .* Export the bundle again"),
    # fields
    "unknown field": (_replace("extra", 1), "contains unknown field `extra`"),
    "unknown field inside": (_replace("model/extra", 1), r"contains unknown field `extra` - at `\$.model`"),
    "label twice": (
        lambda content: content.update(labels=["a", "a"]),
        "labels: 'a' stands there twice. Export the bundle again",
    ),
    "no labels": (lambda content: content.update(labels=[]), "labels: expected a list of names"),
    "field missing": (lambda content: content.pop("labels"), "missing required field `labels`"),
    "wrong type": (
        _replace("model/parameters", "75"),
        r"Expected `int`, got `str` - at `\$.model.parameters`",
    ),
    "true is no number": (_replace("training/batch_size", True), "Expected `int | float`, got `bool`"),
    "negative": (_replace("model/parameters", -1), "Expected `int` >= 0"),
    "unknown task": (_replace("task", "segmentation"), "Invalid enum value 'segmentation'"),
    "unknown dtype": (_replace("adapter/tensors/0/dtype", "float16"), "Invalid enum value 'float16'"),
    "shape of 0": (_replace("adapter/tensors/0/shape", [0]), "Expected `int` >= 1"),
    "no tensors": (_replace("adapter/tensors", []), "Expected `array` of length >= 1"),
    "hash in capitals": (_replace("base_id", "A" * 64), "matching regex"),
    "hash with a newline": (_replace("base_id", "a" * 64 + "\n"), "matching regex"),
    "hash too short": (_replace("base_id", "a" * 63), "matching regex"),
    "a petabyte": (
        lambda content: content["files"][names.BASE].update(size=1 << 50),
        "Expected `int` <= 68719476736",
    ),
    "name of 513 letters": (_replace("adapter/tensors/0/name", "a" * 513), "length <= 512"),
    "image of two channels": (_image(channels=2), "Invalid enum value 2"),
    "image without width": (_image(width=0), "Expected `int` >= 1"),
    "image too large": (_image(height=5000), "Expected `int` <= 4096"),
    # contradictions
    "image of another height": (
        _image(height=9),
        r"image prepares 'image' as float32 \[3, 9, 8\], but graph 'infer' has float32 \['batch', 3, 8, 'width'\]",
    ),
    "image for no input": (_image(input="picture"), "prepares 'picture' as .* has no such input"),
    "image for tokens": (_image(input="input_ids"), "prepares 'input_ids' as .* has int64"),
    "image with two means": (
        _image(mean=[0.5, 0.5]),
        "needs a mean and a std above 0 for each of 3 channels",
    ),
    "image with a std of 0": (
        _image(std=[0.5, 0, 0.5]),
        "needs a mean and a std above 0 for each of 3 channels",
    ),
    "no infer graph": (lambda content: content["graphs"].pop("infer"), "has no graph 'infer'"),
    "graph in no file": (
        _replace("graphs/train/file", "graphs/x.onnx"),
        "'graphs/x.onnx', which is not a listed file",
    ),
    "base not listed": (lambda content: content["files"].pop(names.BASE), f"does not list {names.BASE}"),
    "adapter not listed": (
        lambda content: content["files"].pop("adapters/initial/adapter_config.json"),
        "does not list adapters/initial/adapter_config.json",
    ),
    "lists itself": (
        lambda content: content["files"].update({names.MANIFEST: {"size": 1, "sha256": OTHER_SHA256}}),
        "lists itself",
    ),
    "tensor twice": (
        lambda content: content["adapter"]["tensors"].append(content["adapter"]["tensors"][0]),
        f"two adapter tensors are named '{LORA_A}'",
    ),
    "input twice": (
        lambda content: content["graphs"]["infer"]["inputs"].append(content["graphs"]["infer"]["inputs"][0]),
        "graph 'infer' has two inputs or outputs named 'input_ids'",
    ),
    "output twice": (
        lambda content: content["graphs"]["train"]["outputs"].append(
            content["graphs"]["train"]["outputs"][0]
        ),
        "graph 'train' has two inputs or outputs named 'loss'",
    ),
    "train without a gradient": (
        lambda content: content["graphs"]["train"]["outputs"].pop(),
        f"graph 'train' has no output 'gradient.{LORA_B}'",
    ),
    "train without labels": (
        lambda content: content["graphs"]["train"]["inputs"].pop(),
        "graph 'train' has no input 'labels'",
    ),
    "train without outputs": (_replace("graphs/train/outputs", []), "graph 'train' has no outputs"),
    "infer without logits": (
        _replace("graphs/infer/outputs/0/name", "scores"),
        "graph 'infer' has no output 'logits'",
    ),
    "an update that is none": (
        lambda content: content["graphs"].update(update_sgd=content["graphs"]["infer"]),
        f"graph 'update_sgd' has no input 'momentum_buffer.{LORA_A}'",
    ),
    "token id of 70 bits": (_replace("text/pad_token_id", 2**70), r"at `\$.text.pad_token_id`"),
    "token id below 0": (
        _replace("text/eos_token_ids", [-1]),
        r"Expected `int` >= 0 - at `\$.text.eos_token_ids",
    ),
    "size of 40 bits": (_replace("adapter/tensors/0/shape", [1 << 40]), "Expected `int` <= 2147483648"),
    "setting of 400 digits": (_replace("training/batch_size", 10**400), r"at `\$.training\[...\]`"),
    "tensor that no graph takes": (
        _replace("adapter/tensors/0/name", "other"),
        r"graph 'infer' should take the adapter tensor 'other' as float32 \[2, 8\], but has no such input",
    ),
    "tensor named like a data input": (
        _replace("adapter/tensors/0/name", "input_ids"),
        "should take the adapter tensor 'input_ids' as float32 .*, but has int64",
    ),
    "tensor of another shape than the input": (
        _replace("graphs/train/inputs/1/shape", [8, 2]),
        r"graph 'train' should take .* as float32 \[2, 8\], but has float32 \[8, 2\]",
    ),
    "another base id": (_replace("base_id", OTHER_SHA256), "its base_id is not that of its files"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_manifest_is_refused(manifest: Manifest, change: Change, words: str) -> None:
    """Each wrong field is refused by name, and the message starts with the manifest's place."""
    content = json.loads(schema.encode(manifest))
    change(content)
    with pytest.raises(BundleError, match=f"^where: .*{words}"):
        schema.decode(json.dumps(content).encode(), "where")


def test_a_wrong_manifest_is_not_written(manifest: Manifest) -> None:
    """The exporter hears of a contradiction at its desk, not the device in the field."""
    wrong = msgspec.structs.replace(manifest, base_id=OTHER_SHA256)
    with pytest.raises(BundleError, match="the manifest to be written: its base_id is not that of its files"):
        schema.encode(wrong)


def test_a_bundle_may_be_for_prediction_only(handmade: Path) -> None:
    """Each graph but infer may be missing; whoever needs it is told which, before anything is read or computed."""
    whole = schema.decode((handmade / "chat" / names.MANIFEST).read_bytes())
    for graph in whole.graphs.keys() - {names.INFER}:
        rest = {name: info for name, info in whole.graphs.items() if name != graph}
        schema.encode(msgspec.structs.replace(whole, graphs=rest))
    bare = msgspec.structs.replace(whole, graphs={names.INFER: whole.graphs[names.INFER]})
    model = edgepeft.load(handmade / "chat")
    model.bundle.manifest = bare
    with pytest.raises(
        BundleError, match=r"has no graph 'train', only infer\. Export the model again with it"
    ):
        edgepeft.Trainer(model, edgepeft.TrainingArguments()).fit("no such file")
    with pytest.raises(BundleError, match="has no graph"):
        model.evaluate([{"text": "hello"}])
