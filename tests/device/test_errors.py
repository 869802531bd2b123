"""The errors: one tree, drawn where a reader looks first."""

import inspect
import re

import pytest

from edgepeft import errors
from edgepeft.errors import EdgepeftError

CLASSES = dict(inspect.getmembers(errors, inspect.isclass))


def test_the_tree_is_drawn_as_it_is() -> None:
    """The drawing on top of the module names every error, under the one that it is a kind of."""
    drawn: dict[str, str] = {}
    parents = {0: "EdgepeftError"}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([| ]*)\+-- (\w+)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            parents[depth] = match[2]
            drawn[match[2]] = parents[depth - 1]
    assert drawn == {
        name: value.__base__.__name__ for name, value in CLASSES.items() if name != "EdgepeftError"
    }


@pytest.mark.parametrize("name", CLASSES)
def test_one_name_catches_all(name: str) -> None:
    """`except EdgepeftError` is enough for a caller, and each error explains itself."""
    assert issubclass(CLASSES[name], EdgepeftError)
    assert CLASSES[name].__doc__
    assert str(CLASSES[name]("expected 1, got 2")) == "expected 1, got 2"


def test_a_wrong_setting_is_a_value_error_too() -> None:
    """Python's own habit: a bad argument is a ValueError."""
    assert issubclass(errors.ArgumentError, ValueError)
