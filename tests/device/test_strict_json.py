"""Strict JSON. How manifests, headers and configurations use it is in tests/attacks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepeft import strict_json
from edgepeft.errors import DataError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), _VALUES), st.booleans())
def test_any_object_comes_back(value: dict[str, object], escaped: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
    """Whatever Python writes without leniency is read, with letters beyond ASCII escaped or not."""
    content = json.dumps(value, ensure_ascii=escaped).encode()
    assert strict_json.decode(content, "file", DataError) == value
    assert strict_json.decode(memoryview(content), "file", DataError) == value


@pytest.mark.parametrize("key", ["a", "\\u0061"])
def test_a_key_may_stand_there_once(key: str) -> None:
    """At any depth, however it is spelled: otherwise two readers see two values."""
    with pytest.raises(DataError, match=r"^file: expected JSON: key 'a' stands there twice"):
        strict_json.decode(f'{{"outer": [{{"a": 1, "{key}": 2}}]}}'.encode(), "file", DataError)
