"""Bundles that were cut off, altered or made to reach outside: each is refused for its own reason."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import (
    LORA_A,
    base_weights,
    change_manifest,
    row,
    safetensors_file,
    snapshot,
    sound_tensors,
    write_bundle,
)

from edgepeft import manifest as schema
from edgepeft import names, store, tensors
from edgepeft.bundle import Bundle
from edgepeft.errors import BundleError

INFER = names.graph_file(names.INFER)
MODEL = f"{names.INITIAL_ADAPTER}/{names.ADAPTER_MODEL}"
EVERY_FILE = [names.BASE, INFER, names.graph_file(names.TRAIN), names.TOKENIZER, MODEL]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound bundle."""
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def _refused(folder: Path, words: str) -> None:
    before = snapshot(folder)
    with pytest.raises(BundleError, match=words):
        Bundle.open(folder)
    assert snapshot(folder) == before


def _rehash(folder: Path, path: str) -> None:
    """Makes the manifest agree with a file, as somebody would who forges both."""

    def change(manifest: dict[str, Any]) -> None:
        entry = schema.file_entry(folder / path)
        manifest["files"][path] = {"size": entry.size, "sha256": entry.sha256}
        sha256 = {name: info["sha256"] for name, info in manifest["files"].items()}
        manifest["base_id"] = schema.base_id(sha256[names.BASE], sha256[INFER])

    change_manifest(folder, change)


@pytest.mark.parametrize("path", EVERY_FILE)
def test_a_missing_file_is_named(folder: Path, path: str) -> None:
    """Each file that the manifest lists must be there."""
    (folder / path).unlink()
    _refused(folder, f"{path} is missing. Copy the whole bundle again")


@pytest.mark.parametrize("path", EVERY_FILE)
def test_a_truncated_file_is_named(folder: Path, path: str) -> None:
    """A copy that was interrupted is told by its size."""
    size = (folder / path).stat().st_size
    os.truncate(folder / path, size - 1)
    _refused(folder, f"{path}: expected {size:,} bytes, got {size - 1:,}")


@pytest.mark.parametrize("path", EVERY_FILE)
def test_a_longer_file_is_named(folder: Path, path: str) -> None:
    """What was appended is not read."""
    size = (folder / path).stat().st_size
    (folder / path).write_bytes((folder / path).read_bytes() + b"\0")
    _refused(folder, f"{path}: expected at most {size:,} bytes, got {size + 1:,}")


@pytest.mark.parametrize("path", EVERY_FILE)
def test_an_altered_file_is_named(folder: Path, path: str) -> None:
    """One bit is enough, size and time notwithstanding."""
    content = bytearray((folder / path).read_bytes())
    content[-1] ^= 1
    (folder / path).write_bytes(content)
    _refused(folder, f"{path}: was altered: its SHA-256 is not the manifest's")


@pytest.mark.parametrize("path", ["extra.txt", "graphs/extra.onnx", "assets/.hidden", "unknown/file"])
def test_an_extra_file_is_named(folder: Path, path: str) -> None:
    """What nobody vouches for is not there by accident."""
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(b"")
    _refused(folder, f"'{path.removesuffix('/file')}' is not in the manifest")


def test_an_unknown_folder_is_not_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower of folders, or a million files, costs nothing: the first unknown name is refused."""
    (folder / "unknown/folder").mkdir(parents=True)
    listed: list[int] = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: listed.append(place) or original(place))
    with pytest.raises(BundleError, match="'unknown' is not in the manifest"):
        Bundle.open(folder)
    assert len(listed) == 1


@pytest.mark.parametrize("path", EVERY_FILE)
def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path, path: str) -> None:
    """Even one that leads to the right bytes: they could change after the bundle was checked in."""
    (folder / path).rename(tmp_path / "elsewhere")
    (folder / path).symlink_to(tmp_path / "elsewhere")
    _refused(folder, f"{path}: cannot be opened: it is a symbolic link, which is not followed")


@pytest.mark.parametrize("inside", ["graphs", "adapters", names.INITIAL_ADAPTER])
def test_a_linked_folder_is_not_followed(folder: Path, tmp_path: Path, inside: str) -> None:
    """A folder inside the bundle that leads outside is refused."""
    (folder / inside).rename(tmp_path / "elsewhere")
    (folder / inside).symlink_to(tmp_path / "elsewhere")
    _refused(folder, f"'{inside}' is not in the manifest")


def test_a_folder_that_becomes_a_link_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapping a folder for a link after the listing gains nothing."""
    original = store.FolderReader.read

    def swap_and_read(reader: store.FolderReader, inside: str, max_bytes: int) -> memoryview:
        if inside == INFER:
            (folder / "graphs").rename(tmp_path / "elsewhere")
            (folder / "graphs").symlink_to(tmp_path / "elsewhere")
        return original(reader, inside, max_bytes)

    monkeypatch.setattr(store.FolderReader, "read", swap_and_read)
    with pytest.raises(
        BundleError, match=f"{INFER}: cannot be opened|graphs: cannot be opened: it is a symbolic"
    ):
        Bundle.open(folder)


def test_a_hard_link_is_a_file(folder: Path, tmp_path: Path) -> None:
    """It has the right bytes, and they are read into memory: nothing is wrong with it."""
    os.link(folder / INFER, tmp_path / "elsewhere")
    assert Bundle.open(folder).graph(names.INFER) == b"infer graph"


def test_the_bundle_itself_may_be_reached_by_a_link(folder: Path, tmp_path: Path) -> None:
    """`current -> bundle-7` is how devices switch versions; the user chose it, not a foreign file."""
    (tmp_path / "current").symlink_to(folder)
    assert Bundle.open(tmp_path / "current").manifest.model.name == "tiny"


def test_a_pipe_does_not_block(folder: Path) -> None:
    """A FIFO in the place of a file is refused, not waited for."""
    (folder / INFER).unlink()
    os.mkfifo(folder / INFER)
    with pytest.raises(BundleError, match="expected a regular file, got a pipe"):
        Bundle.open(folder)


def test_a_sparse_terabyte_is_refused(folder: Path) -> None:
    """The size is compared before anything is read."""
    os.truncate(folder / names.BASE, 1 << 40)
    _refused(folder, "expected at most .* bytes, got 1,099,511,627,776")


def test_nothing_there(tmp_path: Path) -> None:
    """A wrong path and a file are told apart from a broken bundle."""
    with pytest.raises(BundleError, match="expected a folder: No such file or directory"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="expected a folder: Not a directory"):
        Bundle.open(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        Bundle.open(tmp_path / "empty")


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "graphs/../../outside",
        "graphs\\outside",
        "C:/outside",
        "./base",
        "graphs//infer.onnx",
        "graphs/",
        "",
        ".hidden",
        "a\0b",
        "a\nb",
        "\N{CYRILLIC SMALL LETTER A}",
        "a/..b",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(
    folder: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by its spelling; nothing but the manifest has been opened by then."""
    (tmp_path / "outside").write_bytes(b"x")
    entry = {"size": 1, "sha256": schema.file_entry(b"x").sha256}
    change_manifest(folder, lambda manifest: manifest["files"].update({path: entry}))
    read: list[str] = []
    original = store.FolderReader.read
    monkeypatch.setattr(
        store.FolderReader,
        "read",
        lambda reader, inside, size: read.append(inside) or original(reader, inside, size),
    )
    with pytest.raises(BundleError, match="is no path inside the bundle"):
        Bundle.open(folder)
    assert read == [names.MANIFEST]


def test_a_graph_that_is_not_listed_is_refused(folder: Path) -> None:
    """A graph's file must be one whose hash is known."""
    change_manifest(folder, lambda manifest: manifest["graphs"]["infer"].update(file="../outside.onnx"))
    _refused(folder, r"graph 'infer' is in '\.\./outside\.onnx', which is not a listed file")


MANIFESTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "expected JSON"),
    "not JSON": (lambda _: b"model: tiny", "expected JSON"),
    "a list": (lambda content: b"[" + content + b"]", "expected a JSON object, got a list"),
    "cut off": (lambda content: content[: len(content) // 2], "expected JSON"),
    "garbage after it": (lambda content: content + b"x", "expected JSON: Extra data"),
    "a key twice": (
        lambda content: content.replace(b'"task":', b'"task": "generic", "task":', 1),
        "key 'task' stands there twice",
    ),
    "a hash twice": (
        lambda content: content.replace(
            b'"base.safetensors": {', b'"base.safetensors": {}, "base.safetensors": {', 1
        ),
        "key 'base.safetensors' stands there twice",
    ),
    "nested brackets": (lambda _: b'{"schema_version":' + b"[" * 200_000, "nested too deeply"),
    "17 MB": (
        lambda content: content + b" " * (17 << 20),
        "manifest.json: expected at most 16,777,216 bytes",
    ),
}


@pytest.mark.parametrize(("change", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_malformed_manifest_is_refused(folder: Path, change: Callable[[bytes], bytes], words: str) -> None:
    """The manifest is the one file that nothing vouches for: it is read the most strictly."""
    path = folder / names.MANIFEST
    path.write_bytes(change(json.dumps(json.loads(path.read_bytes())).encode()))
    _refused(folder, words)


def test_a_newer_version_is_told_first(folder: Path) -> None:
    """A bundle of tomorrow says "update", whatever else in it is not understood."""
    change_manifest(
        folder, lambda manifest: manifest.update(schema_version=2, new_field=[]) or manifest.pop("task")
    )
    _refused(folder, "schema version 2; this edgepeft reads 1. Update edgepeft")


HEADERS = {
    "no safetensors": (b"ONNX" * 8, "Not a safetensors file"),
    "a tensor twice": (
        safetensors_file(f'{{"a": {json.dumps(row([0], 0, 0))}, "a": {json.dumps(row([0], 0, 0))}}}'),
        "key 'a' stands there twice",
    ),
    "out of the file": (safetensors_file({"a": row([2], 0, 8)}, b"\0" * 4), "Cut off"),
    "overlap": (safetensors_file({"a": row([1], 0, 4), "b": row([1], 0, 4)}, b"\0" * 4), "overlaps another"),
    "not aligned": (
        safetensors_file('{"a":' + json.dumps(row([1], 0, 4)) + "}" + " " * 1, b"\0" * 4),
        "not aligned",
    ),
}


@pytest.mark.parametrize(("content", "words"), HEADERS.values(), ids=HEADERS)
def test_weights_with_a_wrong_header_are_refused(folder: Path, content: bytes, words: str) -> None:
    """A right hash does not make a header right: graphs are about to point into it."""
    (folder / names.BASE).write_bytes(content)
    change_manifest(
        folder, lambda manifest: [graph.update(weights=[]) for graph in manifest["graphs"].values()]
    )
    _rehash(folder, names.BASE)
    _refused(folder, words)


def test_a_weight_that_a_graph_lacks_is_named(folder: Path) -> None:
    """Each weight that a graph reads is in the file, before any graph is opened."""
    change_manifest(folder, lambda manifest: manifest["graphs"]["infer"]["weights"].append("lm_head.weight"))
    _refused(folder, "base.safetensors: lacks 'lm_head.weight', which graph 'infer' reads")


def test_another_base_id_is_refused(folder: Path) -> None:
    """An adapter is bound to the base id, so it has to be that of the files."""
    change_manifest(folder, lambda manifest: manifest.update(base_id="0" * 64))
    _refused(folder, "its base_id is not that of its files")


def test_an_own_adapter_that_does_not_fit_is_refused(folder: Path) -> None:
    """The bundle's adapter is held to the same rules as one from elsewhere."""
    values = sound_tensors()
    values[LORA_A][0, 0] = np.nan
    (folder / MODEL).write_bytes(tensors.serialize(values, {"format": "pt"}))
    _rehash(folder, MODEL)
    _refused(folder, "its own adapter is unusable: tensor .*lora_A.* holds NaN or infinity")


def test_what_was_hashed_is_what_is_used(folder: Path) -> None:
    """A bundle that is overwritten, cut off or removed after it was opened changes nothing for who has it open."""
    bundle = Bundle.open(folder)
    for path in EVERY_FILE:
        os.truncate(folder / path, 0)
    shutil.rmtree(folder)
    for name, value in base_weights().items():
        np.testing.assert_array_equal(bundle.weights[name], value)
    assert bundle.graph(names.INFER) == b"infer graph"
    assert bundle.asset(names.TOKENIZER) == b'{"tokens": []}'
    np.testing.assert_array_equal(bundle.initial_adapter().tensors[LORA_A], sound_tensors()[LORA_A])
