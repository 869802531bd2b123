"""Makes what goes to the board: the reader of digits, images to begin with, this sample, and edgepeft's wheel.

Usage: python samples/raspberry_pi/workstation.py FOLDER DIGITS

DIGITS is what samples/digits/workstation.py wrote: a net that reads clean digits well and those of a worn sensor badly.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from samples.digits.workstation import LABELS

_ROOT = Path(__file__).parents[2]
#: Images that a person can look at are larger than what the model sees.
_ENLARGED = 4
#: Held-out digits of the worn sensor that tell how good the reader is.
_HELD_OUT = 200
_PROGRAM = ("folders.py", "inbox.py", "sensor.py", "view.py", "watch.py")
_INSTALLATION = ("install.sh", "edgepeft-reader.service", "README.md")


def write_images(data: Path, part: str, folder: Path, most: int | None = None) -> None:
    """Writes a part's digits as PNG files by class."""
    images, labels = (np.load(data / f"{part}_{kind}.npy")[:most] for kind in ("images", "labels"))
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / LABELS[label] / f"{part}-{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image[0] * 255).astype(np.uint8)
        Image.fromarray(pixels.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1)).save(place)


def main(folder: Path, digits: Path) -> None:
    """Does all of it; what was made before is replaced."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(digits / "bundle", partial / "bundle")
    write_images(digits / "data", "rehearsal", partial / "start" / "examples")
    write_images(digits / "data", "disturbed_test", partial / "start" / "held_out", _HELD_OUT)
    write_images(digits / "data", "corrections", partial / "shots")
    program = partial / "samples" / "raspberry_pi"
    program.mkdir(parents=True)
    for name in _PROGRAM:
        shutil.copyfile(Path(__file__).with_name(name), program / name)
    for name in _INSTALLATION:
        shutil.copy(Path(__file__).with_name(name), partial / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={partial}"]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(_ROOT)]
    subprocess.run(command, check=True)  # noqa: S603 - our own words
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    print(f"== {folder} goes to the board")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
