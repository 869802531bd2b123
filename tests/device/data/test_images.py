"""Images: how one becomes an input, how folders name their classes, and files that are refused."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import edgepeft
from edgepeft import limits
from edgepeft.data.images import ImageFolder, load_image
from edgepeft.errors import DataError, EdgepeftError
from edgepeft.manifest import ImageInfo

GREY = ImageInfo(input="image", channels=1, height=4, width=6, mean=[0.5], std=[0.25])
COLOUR = ImageInfo(
    input="image", channels=3, height=4, width=6, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
)


def picture(width: int = 6, height: int = 4, seed: int = 0, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def folder_of(path: Path, classes: list[str], each: int = 3) -> Path:
    """A folder with images of some classes."""
    for seed, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for number in range(each):
            picture(8, 8, seed * 100 + number).save(path / name / f"{number}.png")
    return path


def test_pixels_become_numbers(tmp_path: Path) -> None:
    """Channels first, scaled to 0..1, less the mean, by the standard deviation."""
    made = picture()
    made.save(tmp_path / "a.png")
    got = load_image(tmp_path / "a.png", COLOUR)
    pixels = np.asarray(made).astype(np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (COLOUR.mean, COLOUR.std))
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, (pixels - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    """As Pillow converts it; the size is the model's."""
    made = picture(17, 9).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    made.save(path)
    info = GREY if channels == 1 else COLOUR
    with Image.open(path) as read:
        plain = read.convert("RGBA").convert("RGB") if mode in ("P", "LA") else read
        wanted = plain.convert("L" if channels == 1 else "RGB").resize((6, 4), Image.Resampling.BILINEAR)
    got = load_image(path, info)
    assert got.shape == (channels, 4, 6)
    scaled = got * np.reshape(info.std, (-1, 1, 1)) + np.reshape(info.mean, (-1, 1, 1))
    shown = np.asarray(wanted).reshape(4, 6, channels).transpose(2, 0, 1)
    assert np.array_equal(np.round(scaled * 255), shown)


def test_a_palette_with_transparency_gives_no_warning(tmp_path: Path) -> None:
    """Pillow warns of it, and a warning is an error in these tests."""
    made = picture().convert("P")
    made.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert load_image(tmp_path / "a.png", GREY).shape == (1, 4, 6)


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    """EXIF orientation 6: the stored picture lies on its side."""
    upright = picture(6, 4, channels=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    upright.save(tmp_path / "b.png")
    assert np.array_equal(load_image(tmp_path / "a.png", GREY), load_image(tmp_path / "b.png", GREY))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "ppm", "PNG"])
def test_the_formats(tmp_path: Path, suffix: str) -> None:
    """Each of those that are let through, whatever the case of the name."""
    folder_of(tmp_path / "data", ["3"], each=0)
    picture(8, 8).save(tmp_path / "data" / "3" / f"a.{suffix}")
    images = ImageFolder(tmp_path / "data", GREY, [], labelled=True)
    ((where, record),) = images.read([0])
    assert where.endswith(f"3/a.{suffix}")
    assert record["label"] == 3
    assert record["image"].shape == (1, 4, 6)


def test_folders_are_classes(tmp_path: Path) -> None:
    """By name where classes have names, by number otherwise; hidden files are passed over; the order is by name."""
    named = folder_of(tmp_path / "named", ["cat", "1", "ant"])
    (named / ".DS_Store").write_bytes(b"x")
    (named / "cat" / ".thumbnail").write_bytes(b"x")
    images = ImageFolder(named, GREY, ["ant", "bee", "cat"], labelled=True)
    assert [record["label"] for _, record in images.read(range(9))] == [1, 1, 1, 0, 0, 0, 2, 2, 2]
    numbered = folder_of(tmp_path / "numbered", ["10", "2"])
    images = ImageFolder(numbered, GREY, [], labelled=True)
    assert [record["label"] for _, record in images.read([0, 5])] == [10, 2]
    names = ImageFolder(numbered, GREY, ["2", "4", "10"], labelled=True)
    assert [record["label"] for _, record in names.read([0, 5])] == [2, 0]  # "2" is the name of class 0


def test_a_folder_trains_a_model(bundles: Path, tmp_path: Path) -> None:
    """From files to a lower loss, held and as a stream alike."""
    data = folder_of(tmp_path / "data", ["0", "3", "7"])
    settings = edgepeft.TrainingArguments(learning_rate=3e-2, epochs=8, batch_size=3)
    model = edgepeft.load(bundles / "conv-net")
    before = model.evaluate(data)
    held = edgepeft.Trainer(model, settings).fit(data, data)
    assert model.evaluate(data)["loss"] < before["loss"] - 0.3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_HELD_FILE_BYTES", 10)
        model.use(model.bundle.initial_adapter())
        streamed = edgepeft.Trainer(model, settings).fit(data, data)
    assert streamed.losses == held.losses


def test_images_for_a_prediction_lie_in_the_folder_itself(bundles: Path, tmp_path: Path) -> None:
    """No class is asked for."""
    data = folder_of(tmp_path, ["any"])
    rows = edgepeft.load(bundles / "conv-net").open_data(data / "any", graph="infer")
    assert [one.row.keys() for one in rows.read([0, 1, 2])] == [{"image"}] * 3


def test_the_digest_is_of_files_and_places(tmp_path: Path) -> None:
    """Another folder of the same files has it, one with a file elsewhere or changed has another."""
    one, other = (folder_of(tmp_path / name, ["1", "2"]) for name in ("a", "b"))

    def digest(folder: Path) -> str:
        return ImageFolder(folder, GREY, [], labelled=True).digest()

    first = digest(one)
    assert digest(other) == first
    (other / "2" / "2.png").rename(other / "1" / "3.png")
    assert digest(other) != first
    (other / "1" / "3.png").rename(other / "2" / "2.png")
    picture(8, 8, 77).save(other / "2" / "2.png")
    assert digest(other) != first


def bomb(width: int, height: int) -> bytes:
    """A small file that claims many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def saved(image: Image.Image, form: str, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **more)
    return stream.getvalue()


BAD = {
    "no image": (b"this is text", "is no image that can be read"),
    "empty": (b"", "is no image that can be read"),
    "truncated png": (saved(picture(60, 60), "PNG")[:-2000], "is no image that can be read"),
    "truncated jpeg": (saved(picture(60, 60), "JPEG")[:-400], "is no image that can be read"),
    "a bomb": (bomb(100_000, 100_000), "is no image that can be read"),
    "a bomb that Pillow warns of": (bomb(10_000, 9_500), "is no image that can be read"),
    "a bomb that Pillow lets through": (
        bomb(8200, 8200),
        "is 8200 x 8200 pixels; expected at most 67,108,864",
    ),
    "no pixels": (bomb(0, 5), "is no image that can be read"),
    "another format": (saved(picture(), "GIF"), "is no image that can be read"),
    "16 bits": (
        saved(Image.fromarray(np.full((4, 6), 40_000, np.uint16)), "PNG"),
        "is of mode I;16; expected 8 bits",
    ),
    "pickle": (b"\x80\x04\x95", "is no image that can be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_named(bundles: Path, tmp_path: Path, case: str) -> None:
    """One line with the file's name, whatever is wrong with it; nothing of its claimed size is allocated."""
    content, words = BAD[case]
    data = folder_of(tmp_path / "data", ["1"])
    bad = data / "1" / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(DataError) as caught:
        edgepeft.load(bundles / "conv-net").open_data(data)
    assert f"{bad}: {words}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)


def test_warnings_are_left_to_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters are one list for all threads: who replaces it for a while can undo what another thread did."""
    real, filters, seen = Image.open, warnings.filters, []

    def opens(*given: object, **named: object) -> Image.Image:
        seen.append(warnings.filters is filters)
        return real(*given, **named)

    monkeypatch.setattr(Image, "open", opens)
    picture().save(tmp_path / "good.png")
    load_image(tmp_path / "good.png", GREY)
    assert seen == [True]


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_bomb_that_pillow_warns_of(tmp_path: Path) -> None:
    """It is refused by its size, whatever the program does with warnings."""
    (tmp_path / "bomb.png").write_bytes(bomb(10_000, 9_500))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(DataError, match="is 10000 x 9500 pixels; expected at most 67,108,864"),
    ):
        load_image(tmp_path / "bomb.png", GREY)


def test_text_that_unpacks_to_much(tmp_path: Path) -> None:
    """A comment of a few kilobytes that would become a hundred megabytes."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    picture().save(tmp_path / "a.png", pnginfo=info)
    assert (tmp_path / "a.png").stat().st_size < 1 << 20
    with pytest.raises(DataError, match="is no image that can be read: Decompressed data too large"):
        load_image(tmp_path / "a.png", GREY)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read further than the limit."""
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 50)
    with pytest.raises(DataError, match=r"a.png: larger than 50 bytes"):
        load_image(tmp_path / "a.png", GREY)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda data: (data / "1" / "notes.txt").write_text("x"),
            r"notes.txt: is no image by its name; expected images, .png",
        ),
        (lambda data: (data / "1" / "more.png").mkdir(), "more.png: is a folder; expected images, .png"),
        (lambda data: (data / "a.png").write_bytes(b""), r"a.png: expected only folders here, one a class"),
        (lambda data: (data / "cat").mkdir(), "cat: label 'cat' is unknown; the model knows numbers from 0"),
        (
            lambda data: (data / "1" / "away.png").symlink_to("nowhere"),
            "away.png: cannot be read: No such file",
        ),
        (lambda data: [path.unlink() for path in (data / "1").iterdir()], "data: has no rows"),
    ],
)
def test_a_folder_that_holds_something_else(bundles: Path, tmp_path: Path, spoil, words: str) -> None:
    """Nothing is passed over silently."""
    data = folder_of(tmp_path / "data", ["1"])
    spoil(data)
    with pytest.raises(DataError, match=words):
        edgepeft.load(bundles / "conv-net").open_data(data)


def test_a_class_that_the_model_does_not_know(tmp_path: Path) -> None:
    """With those that it knows."""
    data = folder_of(tmp_path / "data", ["cat", "dog"])
    with pytest.raises(DataError, match=r"dog: label 'dog' is unknown; the model knows ant, cat\."):
        ImageFolder(data, GREY, ["ant", "cat"], labelled=True)
    with pytest.raises(DataError, match="label 5 is unknown; the model knows ant, cat"):
        ImageFolder(folder_of(tmp_path / "more", ["5"]), GREY, ["ant", "cat"], labelled=True)


def test_a_label_beyond_the_models_classes(bundles: Path, tmp_path: Path) -> None:
    """The net has ten."""
    data = folder_of(tmp_path / "data", ["10"])
    with pytest.raises(DataError, match=r"10/0.png: holds the label 10; the model knows 0 to 9"):
        edgepeft.load(bundles / "conv-net").open_data(data)


@pytest.mark.parametrize("inner", [False, True], ids=["the folder", "a class's folder"])
def test_a_folder_without_read_permission(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: int
) -> None:
    """Said in one line. The system's refusal is simulated, since root is never refused."""
    data = folder_of(tmp_path / "data", ["1"])
    refused = data / "1" if inner else data
    model = edgepeft.load(bundles / "conv-net")
    real = os.scandir

    def refuse(path: str) -> object:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError) as caught:
        model.open_data(data)
    assert str(caught.value) == f"{refused}: cannot be read: Permission denied. Check its permissions."


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are held, so there is a limit."""
    data = folder_of(tmp_path / "data", ["1"])
    monkeypatch.setattr(limits, "MAX_FOLDER_FILES", 2)
    with pytest.raises(DataError, match="holds more than 2 files"):
        ImageFolder(data, GREY, [], labelled=True)


def test_a_bundle_that_says_nothing_of_images(handmade: Path, tmp_path: Path) -> None:
    """Said with what to do."""
    data = folder_of(tmp_path / "data", ["1"])
    with pytest.raises(DataError, match="does not say how images are prepared"):
        edgepeft.load(handmade / "classifier").open_data(data)


def test_without_pillow(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with what to install; everything else works without it."""
    data = folder_of(tmp_path / "data", ["1"])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.delattr("PIL.Image", raising=False)
    with pytest.raises(
        EdgepeftError, match=r"images need the Pillow package. Install it: pip install 'edgepeft"
    ):
        edgepeft.load(bundles / "conv-net").open_data(data)
