"""docs/reference/ is what tools/make_reference.py writes of the docstrings as they are now."""

import edgepeft
import edgepeft_export
from edgepeft import errors
from tools import make_reference


def test_the_pages_are_those_of_the_docstrings() -> None:
    """A docstring that changes takes its page along."""
    written = {path.name: path.read_text() for path in make_reference.REFERENCE.glob("*.md")}
    stale = [name for name, text in make_reference.pages().items() if written.get(name) != text]
    assert not stale, f"run python tools/make_reference.py: {stale}"
    assert written.keys() == make_reference.pages().keys()


def test_every_public_name_has_an_entry() -> None:
    """Of both facades, and of the tree of errors."""
    pages = make_reference.pages()
    together = pages["edgepeft.md"] + pages["errors.md"] + pages["edgepeft_export.md"]
    classes = [name for name, value in vars(errors).items() if isinstance(value, type)]
    for name in {*edgepeft.__all__, *edgepeft_export.__all__, *classes}:
        assert f"## {name}\n" in together, name
    assert "- `learning_rate` (`float`)" in pages["edgepeft.md"]
    assert "- `DataError`: " in pages["edgepeft.md"]
