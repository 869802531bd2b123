"""The demonstration's judgement of an answer, and its data."""

import json
from collections import Counter

import pytest

from tools import demo


@pytest.mark.parametrize(
    ("answer", "keyword", "verdict"),
    [
        ("It is in the blue pot.", "pot", True),
        ("It is in the BLUE Pot", "blue pot", True),
        ("The potato is blue.", "pot", False),
        ("A teapot.", "pot", False),
        ("pot", "pot", True),
        ("On Tuesday, I think.", "Monday|Tuesday", True),
        ("On Wednesday.", "Monday|Tuesday", False),
        ("1947", "1947|nineteen", True),
        ("19470", "1947", False),
        ("It costs 4.50 (four fifty).", "4.50", True),
        ("It costs 4x50.", "4.50", False),
        ("", "pot", False),
    ],
)
def test_an_answer_is_right_if_it_has_the_word(answer: str, keyword: str, verdict: bool) -> None:  # noqa: FBT001
    """A whole word, in any case; one of several; a dot is a dot."""
    assert demo.right(answer, keyword) is verdict


def test_the_questions_are_as_many_as_the_bars_suppose() -> None:
    """Ten taught, and ten in another wording, of which no completion of the lesson is the question itself."""
    lines = (demo.DATA / "questions.jsonl").read_text().splitlines()
    kinds = Counter(json.loads(line)["kind"] for line in lines)
    assert kinds == {"taught": 10, "reworded": 10, "unrelated": 5}
    assert all(demo._WANTED[kind] <= count for kind, count in kinds.items())
