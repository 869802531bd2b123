"""Where the handmade bundles are: as they are kept, or as `make test` gave them what engine ort-training takes."""

import os
from pathlib import Path

_GIVEN = os.environ.get("EDGEPEFT_TEST_BUNDLES")
HANDMADE = Path(_GIVEN).absolute() / "handmade" if _GIVEN else Path(__file__).parent / "data" / "handmade"
