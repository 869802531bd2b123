"""docs/data.md says what is so: its files are written as they stand there, and its programs run on them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()
BLOCK = re.compile(
    r"<!-- (file: (?P<name>\S+)|program|images) -->\n```(?P<kind>\w*)\n(?P<text>.*?)```\n", re.DOTALL
)
BLOCKS = list(BLOCK.finditer(PAGE))
PROGRAMS = [block["text"] for block in BLOCKS if block[1] == "program"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bundles: Path, handmade: Path) -> Path:
    """A folder with the page's files, and the bundles that its programs load."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("chat", "classifier", "sensor"):
        (folder / name).symlink_to(handmade / name)
    (folder / "images").symlink_to(bundles / "conv-net")
    for block in BLOCKS:
        if block["name"]:
            (folder / block["name"]).write_text(block["text"])
        elif block[1] == "images":
            for line in block["text"].split():
                (folder / line).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 10), (10, 200, len(line))).save(folder / line)
    return folder


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_a_program_runs(place: Path, index: int) -> None:
    """As it stands there, by itself; what a comment says it prints, it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[index]],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = re.search(r"print\(.*\)  # (.+)", PROGRAMS[index])
    assert told is None or done.stdout.splitlines()[-1] == told[1]


def test_every_example_is_run() -> None:
    """Each file of the page is named in a program, and no block of Python but the workstation's is left out."""
    for block in BLOCKS:
        assert not block["name"] or any(block["name"] in program for program in PROGRAMS)
    assert PAGE.count("```python\n") == len(PROGRAMS) + 1
    assert len(PROGRAMS) >= 9


def test_the_limits_are_those_of_the_program() -> None:
    """Figures in the text are the constants'."""
    from edgepeft import limits
    from edgepeft.data import batching

    for figure in (
        f"up to {limits.MAX_HELD_FILE_BYTES >> 20} MiB of files and {limits.MAX_HELD_BYTES >> 20} MiB of encoded rows",
        f"at most {limits.MAX_INDEX_ENTRIES:,} of them",
        f"at most {limits.MAX_FOLDER_FILES:,}.",
        f"sorted by length {batching._WINDOW_BATCHES} batches at a time",
    ):
        assert figure in " ".join(PAGE.split())
