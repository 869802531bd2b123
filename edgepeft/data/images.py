"""Folders of images by class, prepared as the bundle says. Needs the Pillow package of the extra `images`."""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from edgepeft import limits
from edgepeft.data import files
from edgepeft.data.contract import Record
from edgepeft.data.encode import class_index, written_label
from edgepeft.errors import DataError, EdgepeftError
from edgepeft.manifest import ImageInfo
from edgepeft.tensors import Array

#: Ends of names, and the only decoders of Pillow that are used: each more is one more that a file can attack.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")

#: Pillow's names for eight bits a channel; deeper ones would be cut off at white.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_TRANSPARENT = {"LA", "P", "PA"}


class _Image(NamedTuple):
    path: str  # a Path takes several times as much
    label: int | None


class ImageFolder:
    """Images below `folder/<class>/`, in the order of the classes' and the files' names.

    A class is a name that the model knows, or its number. Files and folders whose names begin with a dot are passed
    over; all else must be an image.

    Args:
        folder: The folder.
        info: How images are prepared.
        classes: Names of the classes, in order; none if they have none.
        labelled: Whether images need a class; otherwise they lie in the folder itself.

    Raises:
        DataError: A folder cannot be read, is of a class that the model does not know, or holds what is no image.
        EdgepeftError: Pillow is not installed.
    """

    def __init__(self, folder: Path, info: ImageInfo, classes: Sequence[str], *, labelled: bool) -> None:
        self.name = str(folder)
        self._pillow = _pillow()
        self._info = info
        self._images: list[_Image] = []
        self.size = 0
        for path, label in _class_folders(folder, classes) if labelled else [(folder, None)]:
            for entry in files.entries(path):
                self._images.append(_Image(entry.path, label))
                self.size += _checked_size(entry, labelled=labelled)
                if len(self._images) > limits.MAX_FOLDER_FILES:
                    raise DataError(
                        f"{folder}: holds more than {limits.MAX_FOLDER_FILES:,} files. Use fewer."
                    )

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The images at some indices, decoded."""
        found: list[tuple[str, Record]] = []
        for index in indices:
            path, label = self._images[index]
            answer = {} if label is None else {"label": label}
            found.append(
                (path, {self._info.input: load_image(Path(path), self._info, self._pillow)} | answer)
            )
        return found

    def digest(self) -> str:
        """SHA-256 of the images' files and of their places in the folder."""
        digest = hashlib.sha256()
        for path, _ in self._images:
            place = os.fsencode(os.path.relpath(path, self.name))
            digest.update(f"{len(place)} ".encode() + place + files.sha256(Path(path)))
        return digest.hexdigest()


def _class_folders(folder: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for entry in files.entries(folder):
        with files.refusals(Path(entry.path)):
            if not entry.is_dir():
                raise DataError(
                    f"{entry.path}: expected only folders here, one a class, with its images in it."
                )
        try:
            yield Path(entry.path), class_index(written_label(entry.name, classes), classes)
        except DataError as error:
            raise DataError(f"{entry.path}: {error} A folder is named after its class.") from error


def _checked_size(entry: os.DirEntry[str], *, labelled: bool) -> int:
    """Bytes of what is an image by its name."""
    with files.refusals(Path(entry.path)):
        folder = entry.is_dir()
        size = entry.stat().st_size
    if folder or not entry.name.lower().endswith(SUFFIXES):
        where = f"{entry.path}: is {'a folder' if folder else 'no image by its name'}"
        raise DataError(
            f"{where}; expected images, {', '.join(SUFFIXES)}{' in a folder of its class' * labelled}."
        )
    return size


def load_image(path: Path, info: ImageInfo, pillow: ModuleType | None = None) -> Array:
    """An image as the model takes it, [channels, height, width] float32.

    It is turned as its EXIF data says, made grey or RGB, resized with bilinear interpolation to the model's height and
    width, scaled to 0..1, and normalized: (x - mean) / std.

    Raises:
        DataError: It cannot be read, is no image, is cut short, or is too large; the message has its name.
        EdgepeftError: Pillow is not installed.
    """
    module = pillow or _pillow()
    with files.opened(path) as file:
        content = file.read(limits.MAX_IMAGE_BYTES + 1)
    if len(content) > limits.MAX_IMAGE_BYTES:
        raise DataError(f"{path}: larger than {limits.MAX_IMAGE_BYTES:,} bytes. Save a smaller image.")
    try:
        # Of some that _check refuses Pillow warns besides; to silence that would change filters of the whole program.
        image = module.Image.open(io.BytesIO(content), formats=_FORMATS)
        _check(path, image)
        pixels = _prepared(image, info, module)
    except DataError:
        raise
    except Exception as error:  # a decoder can raise anything, and so can what a file makes of it
        told = re.sub(
            r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)
        )  # Pillow's name for what it was given
        raise DataError(
            f"{path}: is no image that can be read: {told.rstrip('.')}. Save it again, or remove it."
        ) from error
    scaled = pixels.astype(np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (info.mean, info.std))
    return np.ascontiguousarray((scaled - mean) / std)


def _check(path: Path, image: Any) -> None:
    """Before anything of its size is allocated."""
    width, height = image.size
    if width * height > limits.MAX_IMAGE_PIXELS:
        raise DataError(
            f"{path}: is {width} x {height} pixels; expected at most {limits.MAX_IMAGE_PIXELS:,}. Save a smaller one."
        )
    if image.mode not in _MODES:
        raise DataError(
            f"{path}: is of mode {image.mode}; expected 8 bits a channel. Give deeper images as arrays."
        )


def _prepared(image: Any, info: ImageInfo, module: ModuleType) -> Array:
    """Pixels [channels, height, width] uint8."""
    image = module.ImageOps.exif_transpose(image)  # decodes it, too
    if image.mode in _TRANSPARENT:
        image = image.convert("RGBA")  # otherwise Pillow warns of a palette with transparency
    image = image.convert("L" if info.channels == 1 else "RGB")
    image = image.resize((info.width, info.height), module.Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(info.height, info.width, -1).transpose(2, 0, 1)


def _pillow() -> ModuleType:
    try:
        import PIL.Image  # noqa: PLC0415 - an extra
        import PIL.ImageOps  # noqa: PLC0415
    except ImportError as error:
        raise EdgepeftError(
            "images need the Pillow package. Install it: pip install 'edgepeft[images]'."
        ) from error
    return PIL
