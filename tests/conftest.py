"""What all tests share: the small bundles, exported once a run unless the Makefile did it before."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from handmade_bundles import HANDMADE

from edgepeft import ort_package


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small bundles; without torch they must have been exported before."""
    given = os.environ.get("EDGEPEFT_TEST_BUNDLES")
    if given:
        return Path(given).absolute()
    from small_models import export_all

    folder = tmp_path_factory.mktemp("bundles")
    export_all(folder)
    return folder


@pytest.fixture(scope="session")
def handmade() -> Path:
    """Folder of the bundles that tools/make_handmade_bundle.py wrote: they need no export."""
    return HANDMADE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `stock("why")` where another ONNX Runtime is installed."""
    package = ort_package.installed()
    for item in items:
        marker = item.get_closest_marker("stock")
        if marker is not None and package.trains:
            item.add_marker(pytest.mark.skip(reason=f"{package.name}: {marker.args[0]}"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip wheel .` makes, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={folder}"]
    command = [sys.executable, "-m", "pip", "wheel", ".", *options]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)
