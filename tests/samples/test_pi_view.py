"""What the sample of a small board shows."""

import io

import pytest
from rich.console import Console

from samples.raspberry_pi.view import View


def _shown(view: View) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(view._drawing())
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_screen_in_words() -> None:
    """One image, more corrections than start a training, and a score that does not grow with the weeks."""
    view = View("a test")
    view.refresh(read=1, corrections=(23, 8), scores=[33.5, 84.0])
    assert (
        "read 1 image corrections 23 waiting, 8 start a training held-out score 84.0 %, 33.5 % at first"
        in (_shown(view))
    )
    view.refresh(read=2)
    assert "read 2 images" in _shown(view)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(1)])
def test_an_output_that_is_lost(error: BaseException) -> None:
    """Whoever tells something goes on; what went wrong is known."""
    view = View("a test")

    def refused(*_: object, **__: object) -> None:
        raise error

    view._console.print = refused  # type: ignore[method-assign]
    view.event("something")
    view.event("more")
    assert isinstance(view.lost, OSError)
    assert view.lost.errno == (28 if isinstance(error, OSError) else 32)
