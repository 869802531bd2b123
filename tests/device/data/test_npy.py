"""Arrays in files: read a row at a time, and headers that lie."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft import limits
from edgepeft.data.npy import NpyFile
from edgepeft.errors import DataError


@pytest.fixture
def model(handmade: Path) -> edgepeft.Model:
    return edgepeft.load(handmade / "regression")


def columns(rows: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "x": generator.standard_normal((rows, 3), dtype=np.float32),
        "target": generator.standard_normal((rows, 32), dtype=np.float32),
    }


def folder_of(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


@pytest.mark.parametrize("held", [-1, 1 << 20], ids=["streams", "held"])
def test_a_folder_is_the_same_as_its_arrays(
    model: edgepeft.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Bit for bit, in training too."""
    monkeypatch.setattr(limits, "MAX_HELD_FILE_BYTES", held)
    data = folder_of(tmp_path / "data", columns())
    assert model.open_data(data).streams == (held < 0)
    settings = edgepeft.TrainingArguments(max_steps=5, batch_size=2, learning_rate=0.1)
    losses = []
    for way in (columns(), data):
        model.use(model.bundle.initial_adapter())
        losses.append(edgepeft.Trainer(model, settings).fit(way).losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", "|b1", ">i2"])
def test_numbers_of_any_kind(tmp_path: Path, dtype: str) -> None:
    """Of either byte order; rows in any order, one twice, and none."""
    array = (np.arange(24).reshape(4, 3, 2) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    file = NpyFile(tmp_path / "a.npy")
    assert len(file) == 4
    assert np.array_equal(file.read([3, 0, 3]), array[[3, 0, 3]])
    assert file.read([]) == []


def test_numbers_one_a_row(tmp_path: Path) -> None:
    """Labels: an array of one axis."""
    np.save(tmp_path / "a.npy", np.arange(5))
    assert [int(value) for value in NpyFile(tmp_path / "a.npy").read([4, 0])] == [4, 0]


def test_one_file_for_a_prediction(model: edgepeft.Model, tmp_path: Path) -> None:
    """Enough for a graph of one input; training is told what is missing."""
    np.save(tmp_path / "anything.npy", columns()["x"])
    rows = model.open_data(tmp_path / "anything.npy", graph="infer")
    assert np.array_equal([one.row["x"] for one in rows.read(range(7))], columns()["x"])
    with pytest.raises(
        DataError, match=r"is one array; the model takes several. Put x.npy, target.npy into a folder"
    ):
        model.open_data(tmp_path / "anything.npy")


def header(shape: object, descr: object = "<f4", *, fortran: object = False, version: int = 1) -> bytes:
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def raw(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


BAD = {
    "empty": (b"", "is no .npy file"),
    "text": (b"x,y\n1,2\n", "is no .npy file"),
    "pickle": (pickle.dumps([1, 2]), "is no .npy file"),
    "objects": (objects(), "holds object; expected numbers"),
    "text in it": (header((1,), "<U3") + bytes(12), "holds <U3; expected numbers"),
    "fields": (header((1,), [("a", "<f4")]) + bytes(4), "expected numbers"),
    "complex": (header((1,), "<c8") + bytes(8), "holds complex64; expected numbers"),
    "one byte short": (header((2, 3)) + bytes(23), "its header, float32 [2, 3], makes"),
    "one byte more": (header((2, 3)) + bytes(25), "its header, float32 [2, 3], makes"),
    "huge": (header((1 << 62, 1 << 62)), "its header"),
    "wraps around": (header((1 << 32, 1 << 32, 1 << 2)), "its header"),
    "huge and empty": (header((0, 1 << 62)), "a row takes"),
    "negative": (header((-1, 3)), "has shape (-1, 3)"),
    "no axes": (header(()) + bytes(4), "has shape (); expected the rows as its first axis"),
    "a truth for a size": (header((True, 3)) + bytes(12), "has shape (True, 3)"),
    "a float for a size": (header((2.0, 3)) + bytes(24), "is no .npy file"),
    "many axes": (header((1,) * 60) + bytes(4), "has shape"),
    "Fortran": (header((2, 3), fortran=True) + bytes(24), "is in Fortran's order"),
    "version 3": (header((2,), version=3) + bytes(8), "is no .npy file"),
    "version 9": (header((2,), version=9) + bytes(8), "is no .npy file"),
    "a program": (raw(b"__import__('os').abort()\n"), "is no .npy file"),
    "brackets": (raw(b"(" * 9000), "is no .npy file"),
    "long": (header((2,), version=2)[:8] + struct.pack("<I", 1 << 30), "is no .npy file"),
    "a long header": (raw(b" " * 60_000), "is no .npy file"),
    "no key": (raw(b"{'descr': '<f4', 'shape': (2,)}\n"), "is no .npy file"),
    "zip": (b"PK\x03\x04" + bytes(100), "is no .npy file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_hostile_file_is_named(tmp_path: Path, case: str) -> None:
    """One line, in bounded time and memory; nothing of it is run."""
    content, words = BAD[case]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        NpyFile(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_row_that_is_too_large(tmp_path: Path) -> None:
    """A sparse file is as large as it says, and takes no disk."""
    path = tmp_path / "a.npy"
    path.write_bytes(header((2, 1 << 40), "|u1"))
    os.truncate(path, path.stat().st_size + (2 << 40))
    with pytest.raises(DataError, match="a row takes 1,099,511,627,776 bytes; expected at most"):
        NpyFile(path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (columns() | {"target": columns(6)["target"]}, "not equally long: target 6, x 7"),
        ({"x": columns()["x"]}, "has the keys x; expected the arrays x, target"),
        (
            {"x": np.zeros((7, 4)), "target": columns()["target"]},
            r"row 1: 'x' has shape \[4\], expected \[3\] a row",
        ),
        (columns(0), "has no rows"),
    ],
)
def test_arrays_that_do_not_fit(
    model: edgepeft.Model, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    """Told with the folder and, where there is one, the row."""
    data = folder_of(tmp_path / "data", arrays)
    with pytest.raises(DataError, match=words) as caught:
        model.open_data(data)
    assert str(data) in str(caught.value)


def test_a_folder_that_holds_something_else(model: edgepeft.Model, tmp_path: Path) -> None:
    """What is hidden, and arrays that the model does not take, are left alone; what is no array is told."""
    data = folder_of(tmp_path / "data", columns())
    (data / ".hidden").write_text("x")
    assert len(model.open_data(data)) == 7
    np.save(data / "more.npy", np.zeros(7))
    assert model.open_data(data).read([0])[0].row.keys() == {"x", "target"}
    (data / "more.npy").rename(data / "more.npz")
    with pytest.raises(DataError, match=r"more.npz: expected only .npy files here"):
        model.open_data(data)


def test_a_file_that_changes(tmp_path: Path) -> None:
    """Cut short while it is in use: an error, not the end of the process."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((100, 1000)))
    file = NpyFile(path)
    os.truncate(path, 500)
    with pytest.raises(DataError, match="was changed while it was in use"):
        file.read([99])


def test_the_digest_is_of_names_and_contents(model: edgepeft.Model, tmp_path: Path) -> None:
    """The same arrays elsewhere have it; a changed number has another."""
    one, other = (folder_of(tmp_path / name, columns()) for name in ("a", "b"))
    first = model.open_data(one).fingerprint()
    assert model.open_data(other).fingerprint() == first
    changed = columns()
    changed["x"][6, 2] += 1
    assert model.open_data(folder_of(other, changed)).fingerprint() != first


def test_classes_in_a_file(handmade: Path, tmp_path: Path) -> None:
    """By number, of any whole type; a fraction is told, and so is a number that no class has."""
    model = edgepeft.load(handmade / "sensor")
    for dtype in ("<i8", "|u1", ">i4"):
        arrays = {"x": np.eye(3, dtype=np.float32), "label": np.arange(3).astype(dtype)}
        rows = model.open_data(folder_of(tmp_path / "data", arrays)).read([0, 2])
        assert [int(one.row["labels"]) for one in rows] == [0, 2]
    for wrong, told in ((np.array([0.0, 1.0, 2.0]), "array"), (np.arange(1, 4), "3 is unknown")):
        with pytest.raises(DataError, match=f"label {told}"):
            model.open_data(folder_of(tmp_path / "data", arrays | {"label": wrong}))
