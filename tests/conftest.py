"""What all tests share: the small bundles, exported once a run unless the Makefile did it before."""

import os
from pathlib import Path

import pytest


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
    return Path(__file__).parent / "data" / "handmade"
