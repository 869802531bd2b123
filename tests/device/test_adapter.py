"""Adapters: bit-exact through files, opened by HF PEFT, and refused where they do not fit."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from foreign_files import (
    CONFIG,
    LORA_A,
    LORA_B,
    snapshot,
    sound_adapter,
    sound_tensors,
    write_adapter,
    write_bundle,
)
from safetensors import safe_open

from edgepeft import limits, names, tensors
from edgepeft.adapter import Adapter, check_fits
from edgepeft.errors import AdapterError, ArgumentError, StorageError
from edgepeft.manifest import Manifest, Port

FILES = [names.ADAPTER_CONFIG, names.ADAPTER_MODEL]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The manifest of the bundle that adapters are for."""
    return write_bundle(tmp_path / "bundle")


def _same(one: Adapter, other: Adapter) -> bool:
    return (
        one.config == other.config
        and one.base_id == other.base_id
        and one.labels == other.labels
        and one.tensors.keys() == other.tensors.keys()
        and all(
            value.dtype == other.tensors[name].dtype
            and value.shape == other.tensors[name].shape
            and value.tobytes() == other.tensors[name].tobytes()
            for name, value in one.tensors.items()
        )
    )


@pytest.mark.parametrize("base_id", [None, "ab" * 32])
def test_an_adapter_comes_back_bit_for_bit(tmp_path: Path, base_id: str | None) -> None:
    """Tensors, configuration and base, signed zeros and denormals included; a second save gives the same files."""
    adapter = sound_adapter(base_id)
    adapter.tensors[LORA_A][0, :3] = [-0.0, 1e-45, np.float32(np.pi)]
    adapter.save(tmp_path / "alice")
    loaded = Adapter.load(tmp_path / "alice")
    assert _same(loaded, adapter)
    loaded.save(tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "alice")


def test_the_folder_is_what_peft_expects(tmp_path: Path) -> None:
    """Two files of PEFT's names; the metadata says "pt", without which transformers refuses the file."""
    sound_adapter("ab" * 32).save(tmp_path / "alice")
    assert sorted(path.name for path in (tmp_path / "alice").iterdir()) == FILES
    assert json.loads((tmp_path / "alice" / names.ADAPTER_CONFIG).read_text()) == CONFIG
    with safe_open(tmp_path / "alice" / names.ADAPTER_MODEL, "np") as file:
        assert file.metadata() == {"format": "pt", "edgepeft.base_id": "ab" * 32}
        assert set(file.keys()) == {LORA_A, LORA_B}


def test_labels_come_back(tmp_path: Path) -> None:
    """Names of any script, in order, in the metadata that PEFT does not read; an adapter without them has none."""
    labels = ["work", "maison", "家", 'a "quote"']
    sound_adapter("ab" * 32).with_labels(labels).save(tmp_path / "alice")
    assert Adapter.load(tmp_path / "alice").labels == tuple(labels)
    with safe_open(tmp_path / "alice" / names.ADAPTER_MODEL, "np") as file:
        assert json.loads(file.metadata()["edgepeft.labels"]) == labels
    sound_adapter().save(tmp_path / "bob")
    assert Adapter.load(tmp_path / "bob").labels is None


BAD_LABELS: dict[str, tuple[Any, str]] = {
    "none": ([], r"expected a list of names, got \[\]"),
    "a text": ("spam", "expected a list of names, got 'spam'"),
    "a mapping": ({"spam": 0}, "expected a list of names"),
    "twice": (["spam", "work", "spam"], "'spam' stands there twice"),
    "empty": (["spam", ""], "'' is no name of a class"),
    "blank": (["spam", "  "], "'  ' is no name of a class"),
    "a number": (["spam", 1], "1 is no name of a class"),
    "two lines": (["spam\nham"], "is no name of a class; expected printable text"),
    "an escape sequence": (["\x1b[2J"], "is no name of a class"),
    "half a surrogate pair": (["\ud800"], "is no name of a class"),
    "long": (["x" * 257], "has 257 characters; expected at most 256"),
}


@pytest.mark.parametrize(("labels", "words"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_are_none(tmp_path: Path, labels: Any, words: str) -> None:
    """Refused where they are given, and where a file has them."""
    with pytest.raises(ArgumentError, match=f"labels: .*{words}"):
        sound_adapter().with_labels(labels)
    model = tensors.serialize(sound_tensors(), {"format": "pt", "edgepeft.labels": json.dumps(labels)})
    write_adapter(tmp_path / "alice", model)
    with pytest.raises(AdapterError, match=f"adapter_model.safetensors: its edgepeft.labels: .*{words}"):
        Adapter.load(tmp_path / "alice")


@pytest.mark.parametrize("text", ["", "spam", "[1", "[" * 100_000], ids=["empty", "bare", "cut", "deep"])
def test_labels_that_are_no_json(tmp_path: Path, text: str) -> None:
    """The message names the file and the key."""
    write_adapter(tmp_path / "alice", tensors.serialize(sound_tensors(), {"edgepeft.labels": text}))
    with pytest.raises(AdapterError, match=r"its edgepeft.labels is broken JSON: .*\. Save it again"):
        Adapter.load(tmp_path / "alice")


def test_many_labels_are_checked_at_once(tmp_path: Path) -> None:
    """As many as fit the metadata, in a time that grows with their number."""
    labels = [f"{number:x}" for number in range(60_000)]
    sound_adapter().with_labels(labels).save(tmp_path / "alice")
    assert len(Adapter.load(tmp_path / "alice").labels or ()) == 60_000


def test_other_files_are_ignored(tmp_path: Path) -> None:
    """PEFT writes a README beside them; a link or a pipe of another name is nobody's business either."""
    sound_adapter().save(tmp_path / "alice")
    (tmp_path / "alice/README.md").write_text("# Alice")
    (tmp_path / "alice/link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "alice/pipe")
    assert _same(Adapter.load(tmp_path / "alice"), sound_adapter())


def test_the_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    """`current -> alice` is the user's own choice, unlike a link inside the folder."""
    sound_adapter().save(tmp_path / "alice")
    (tmp_path / "current").symlink_to("alice")
    assert _same(Adapter.load(tmp_path / "current"), sound_adapter())


def test_loaded_tensors_cannot_be_changed(tmp_path: Path) -> None:
    """An adapter is shared by whoever uses it, so nobody can write to it."""
    sound_adapter().save(tmp_path / "alice")
    with pytest.raises(ValueError, match="read-only"):
        Adapter.load(tmp_path / "alice").tensors[LORA_A][0, 0] = 1


def test_size_is_that_of_the_tensors() -> None:
    """In bytes: 2 x 8 and 8 x 2 numbers of four."""
    assert sound_adapter().size == 128


def test_an_adapter_is_replaced_by_another(tmp_path: Path) -> None:
    """Saving again under the same name is the normal case."""
    sound_adapter(seed=0).save(tmp_path / "alice")
    sound_adapter(seed=1).save(tmp_path / "alice")
    assert _same(Adapter.load(tmp_path / "alice"), sound_adapter(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["alice"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """Somebody made the folder first."""
    (tmp_path / "alice").mkdir()
    sound_adapter().save(tmp_path / "alice")
    assert _same(Adapter.load(tmp_path / "alice"), sound_adapter())


@pytest.mark.parametrize("name", ["README.md", "thesis.txt", "adapter_config.json/notes", "link"])
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, name: str) -> None:
    """Only a folder with nothing but an adapter's two files is given up."""
    folder = tmp_path / "alice"
    if name != "adapter_config.json/notes":
        sound_adapter().save(folder)
    if name == "link":
        (folder / names.ADAPTER_MODEL).unlink()
        (folder / names.ADAPTER_MODEL).symlink_to("/etc/passwd")
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=r"alice: exists and is something else\. Give another folder"):
        sound_adapter(seed=1).save(folder)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The adapter of yesterday still loads."""
    sound_adapter(seed=0).save(tmp_path / "alice")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match=r"No space left on device\. Free some space"):
        sound_adapter(seed=1).save(tmp_path / "alice")
    monkeypatch.undo()
    assert _same(Adapter.load(tmp_path / "alice"), sound_adapter(seed=0))
    assert [path.name for path in tmp_path.iterdir()] == ["alice"]


@pytest.mark.parametrize("value", [{"q_proj"}, float("nan")], ids=["a set", "NaN"])
def test_a_configuration_that_is_no_json_is_not_written(tmp_path: Path, value: object) -> None:
    """What could not be read again is refused before anything is written."""
    adapter = dataclasses.replace(sound_adapter(), config=CONFIG | {"extra": value})
    with pytest.raises(AdapterError, match=r"adapter_config\.json can hold text, numbers, lists"):
        adapter.save(tmp_path / "alice")
    assert not list(tmp_path.iterdir())


# What fits a bundle.


def _check(adapter: Adapter, manifest: Manifest) -> None:
    check_fits(adapter, manifest, sound_adapter(manifest.base_id))


def _with(**changes: np.ndarray) -> dict[str, np.ndarray]:
    renamed = {"a": LORA_A, "b": LORA_B}
    return sound_tensors() | {renamed.get(name, name): value for name, value in changes.items()}


def _filled(value: float) -> np.ndarray:
    array = np.zeros((2, 8), np.float32)
    array[1, 3] = value
    return array


def _without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in sound_tensors().items() if key != name}


MISFITS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "float64": (
        _with(a=np.zeros((2, 8))),
        "lora_A.weight' is float64, expected float32. Save the adapter in float32",
    ),
    "float16": (_with(b=np.zeros((8, 2), np.float16)), "lora_B.weight' is float16, expected float32"),
    "integers": (_with(a=np.zeros((2, 8), np.int32)), "is int32, expected float32"),
    "another rank of LoRA": (_with(a=np.zeros((4, 8), np.float32)), r"has shape \(4, 8\), expected \(2, 8\)"),
    "another number of axes": (_with(a=np.zeros(16, np.float32)), r"has shape \(16,\), expected \(2, 8\)"),
    "transposed": (
        _with(a=np.zeros((8, 2), np.float32)),
        r"has shape \(8, 2\), expected \(2, 8\). It is transposed",
    ),
    "missing": (_without(LORA_B), r"lacks '.*lora_B.weight': it has 1 of 2 tensors"),
    "no tensors": ({}, "it has 0 of 2 tensors"),
    "extra": (
        _with(**{LORA_A.replace(".0.", ".9."): np.zeros((2, 8), np.float32)}),
        rf"knows no adapter tensor '.*layers\.9\..*' The nearest that it knows is '{LORA_A}'".replace(
            "' The", "'. The"
        ),
    ),
    "extra, like nothing": (
        _with(zzz=np.zeros(1, np.float32)),
        "knows no adapter tensor 'zzz'. Was it made for",
    ),
    "named like a data input": (
        _with(input_ids=np.zeros(1, np.float32)),
        "knows no adapter tensor 'input_ids'",
    ),
    "named like a frozen weight": (
        _with(**{"embed.weight": np.zeros(1, np.float32)}),
        "knows no adapter tensor",
    ),
    "NaN": (_with(a=_filled(np.nan)), "lora_A.weight' holds NaN or infinity"),
    "infinity": (_with(a=_filled(np.inf)), "holds NaN or infinity"),
    "minus infinity": (_with(a=_filled(-np.inf)), "holds NaN or infinity"),
    "1e38": (_with(a=_filled(1e38)), r"holds 1e\+38, expected at most 1e\+06"),
    "minus 1e38": (_with(a=_filled(-1e38)), r"holds 1e\+38, expected at most 1e\+06"),
}


@pytest.mark.parametrize(("values", "words"), MISFITS.values(), ids=MISFITS)
def test_tensors_that_do_not_fit_are_refused(
    manifest: Manifest, values: dict[str, np.ndarray], words: str
) -> None:
    """Names, dtypes, shapes and values, each with what was expected."""
    with pytest.raises(AdapterError, match=words):
        _check(Adapter(values, CONFIG, manifest.base_id), manifest)


def test_what_fits_is_accepted(manifest: Manifest) -> None:
    """With the base's id or, made elsewhere, without one; up to the largest number that is allowed."""
    _check(sound_adapter(manifest.base_id, seed=1), manifest)
    _check(sound_adapter(None, seed=1), manifest)
    _check(Adapter(_with(a=_filled(limits.MAX_ADAPTER_MAGNITUDE)), CONFIG), manifest)
    _check(Adapter(_with(a=_filled(-limits.MAX_ADAPTER_MAGNITUDE)), CONFIG), manifest)


def test_another_base_is_refused(manifest: Manifest) -> None:
    """The same shapes on another model would compute, and give nonsense."""
    with pytest.raises(
        AdapterError, match=f"made for base '{'0' * 12}', this bundle is '{manifest.base_id[:12]}'"
    ):
        _check(sound_adapter("0" * 64), manifest)


def test_labels_are_for_classifiers(manifest: Manifest) -> None:
    """As many as the logits have places, or fewer; a language model has no classes."""
    adapter = sound_adapter(manifest.base_id).with_labels(["a", "b", "c"])
    with pytest.raises(AdapterError, match="names classes, but this bundle's model is no classifier"):
        _check(adapter, manifest)
    with pytest.raises(AdapterError, match=r"names 3 classes, the model has room for 2\. Name fewer"):
        _check(adapter, _classifier(manifest, 2))
    for classes in (3, 4):
        _check(adapter, _classifier(manifest, classes))
    with pytest.raises(AdapterError, match="the adapter's labels: 'a' stands there twice"):
        _check(dataclasses.replace(adapter, labels=("a", "a")), _classifier(manifest, 3))


def _classifier(manifest: Manifest, classes: int) -> Manifest:
    logits = Port(name="logits", dtype="float32", shape=["batch", classes])
    graphs = {
        name: msgspec.structs.replace(graph, outputs=[logits]) for name, graph in manifest.graphs.items()
    }
    return msgspec.structs.replace(manifest, loss="cross_entropy", graphs=graphs)


CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"peft_type": "IA3"}, "the adapter's peft_type is 'IA3', the bundle was exported with 'LORA'"),
    "rank": ({"r": 4}, "the adapter's r is '4', the bundle was exported with '2'"),
    "alpha": ({"lora_alpha": 32}, "the adapter's lora_alpha is '32', the bundle was exported with '4'"),
    "modules": ({"target_modules": ["k_proj"]}, "the adapter's target_modules is"),
    "rsLoRA": ({"use_rslora": True}, "the adapter's use_rslora is 'True'"),
    "DoRA": ({"use_dora": True}, "the adapter's use_dora is 'True'"),
    "alpha of one module": ({"alpha_pattern": {"q_proj": 64}}, "the adapter's alpha_pattern is"),
    "bias": ({"bias": "all"}, "the adapter's bias is 'all', the bundle was exported with 'none'"),
    "order of layers": ({"layer_replication": [[4, 8], [0, 4]]}, "the adapter's layer_replication is"),
    "unknown to the bundle": (
        {"lora_bias": True},
        "lora_bias is 'True', the bundle was exported with 'None'",
    ),
}


@pytest.mark.parametrize(("changes", "words"), CONFLICTS.values(), ids=CONFLICTS)
def test_settings_that_mean_something_else_are_refused(
    manifest: Manifest, changes: dict[str, Any], words: str
) -> None:
    """Alpha, say, is not in the tensors but in the graph: another one would silently scale the adapter."""
    exported = CONFIG | {
        "use_rslora": False,
        "use_dora": False,
        "alpha_pattern": {},
        "bias": "none",
        "layer_replication": [[0, 4], [4, 8]],
    }
    initial = Adapter(sound_tensors(), exported, manifest.base_id)
    with pytest.raises(AdapterError, match=words):
        check_fits(Adapter(sound_tensors(), exported | changes), manifest, initial)


@pytest.mark.parametrize("field", ["peft_type", "r", "lora_alpha", "target_modules", "layer_replication"])
def test_settings_that_are_missing_are_refused(manifest: Manifest, field: str) -> None:
    """PEFT would fill in its default, an alpha of 8, say: the adapter would be scaled in silence."""
    exported = CONFIG | {"layer_replication": [[0, 4]]}
    initial = Adapter(sound_tensors(), exported, manifest.base_id)
    given = {name: value for name, value in exported.items() if name != field}
    with pytest.raises(
        AdapterError, match=rf"adapter_config\.json lacks {field}; the bundle was exported with"
    ):
        check_fits(Adapter(sound_tensors(), given), manifest, initial)


@pytest.mark.parametrize(
    "neutral",
    [
        {"use_dora": False},
        {"rank_pattern": {}},
        {"modules_to_save": None},
        {"bias": "none"},
        {"qalora_group_size": 16},
    ],
    ids=lambda neutral: next(iter(neutral)),
)
def test_a_missing_setting_that_changes_nothing_is_accepted(
    manifest: Manifest, neutral: dict[str, Any]
) -> None:
    """Another version of PEFT has fields that this one lacks; either side may be the older."""
    plain, full = (Adapter(sound_tensors(), config) for config in (CONFIG, CONFIG | neutral))
    check_fits(plain, manifest, full)
    check_fits(full, manifest, plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["v_proj", "q_proj"]},
        {"lora_dropout": 0.5},
        {"base_model_name_or_path": "elsewhere"},
        {"inference_mode": True},
        {"lora_alpha": 4.0},
        {"layers_to_transform": None},
        {"a field of tomorrow": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_mean_the_same_are_accepted(manifest: Manifest, changes: dict[str, Any]) -> None:
    """The order of a set, training's own settings, nothing as null or [], fields that only one side has."""
    initial = Adapter(sound_tensors(), CONFIG | {"layers_to_transform": []}, manifest.base_id)
    check_fits(Adapter(sound_tensors(), CONFIG | changes), manifest, initial)


def test_a_refused_adapter_leaves_the_active_one(tmp_path: Path, manifest: Manifest) -> None:
    """Nothing that is refused, at any stage, touches the adapter in use: neither its file nor its arrays."""
    sound_adapter(manifest.base_id).save(tmp_path / "active")
    active = Adapter.load(tmp_path / "active")
    before = snapshot(tmp_path / "active")
    hostile: list[Callable[[], object]] = [
        lambda: Adapter.load(tmp_path / "nothing"),
        lambda: tensors.parse_checked(memoryview(b"PK\3\4" * 10), "file", AdapterError),
        lambda: _check(Adapter(_with(a=_filled(np.nan)), CONFIG), manifest),
    ]
    for attempt in hostile:
        with pytest.raises(AdapterError):
            attempt()
    assert _same(active, sound_adapter(manifest.base_id))
    assert snapshot(tmp_path / "active") == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_peft_opens_what_was_saved(tmp_path: Path) -> None:
    """PEFT -> edgepeft -> PEFT: the folder opens in `PeftModel.from_pretrained`, labels and all, bit for bit."""
    torch = pytest.importorskip(
        "torch", reason="a device has no torch; PEFT opens our folder on a workstation"
    )
    peft = pytest.importorskip("peft")

    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))

    settings = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False)
    original = peft.get_peft_model(model(), settings)
    original.save_pretrained(tmp_path / "peft")
    Adapter.load(tmp_path / "peft").with_labels(["cat", "dog"]).save(tmp_path / "ours")
    opened = peft.PeftModel.from_pretrained(model(), tmp_path / "ours")
    before, after = (peft.get_peft_model_state_dict(one) for one in (original, opened))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    batch = torch.ones(3, 8)
    assert torch.equal(original.eval()(batch), opened.eval()(batch))
