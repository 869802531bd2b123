"""Curves as pictures: parsed again, bounded in size, and true to what they show."""

import math
from xml.etree import ElementTree as ET

import pytest

from edgepeft import curves

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ET.Element:
    """A picture, read again."""
    return ET.fromstring(text)  # noqa: S314 - it is ours


def lines(text: str) -> list[list[tuple[float, float]]]:
    """Places of each curve of a picture."""
    found = parsed(text).iter(f"{SVG}polyline")
    return [[tuple(map(float, place.split(","))) for place in line.get("points").split()] for line in found]


def test_a_picture_is_a_file_of_its_own() -> None:
    """It parses as SVG, names its curves, and refers to nothing outside."""
    text = curves.curves_svg("<Loss> & more", [("training", [(1, 2.0), (2, 1.0)]), ("held-out", [(0, 2.5)])])
    root = parsed(text)
    assert root.tag == f"{SVG}svg"
    told = [node.text for node in root.iter(f"{SVG}text")]
    assert {"<Loss> & more", "training", "held-out", "step"} <= set(told)
    assert text.count("http") == 1, "only the name of the format"
    assert "url(" not in text


def test_higher_losses_are_higher_up_and_later_steps_further_right() -> None:
    """The scale is common to all curves and begins at zero."""
    falling, flat = lines(curves.curves_svg("", [("a", [(1, 4.0), (2, 3.0), (3, 1.0)]), ("b", [(3, 2.0)])]))
    assert [x for x, _ in falling] == sorted(x for x, _ in falling)
    assert [y for _, y in falling] == sorted(y for _, y in falling)
    assert falling[1][1] < flat[0][1] < falling[2][1]
    assert falling[2][0] == flat[0][0]
    # 4, 3 and 1 are as far apart on the picture as they are
    assert falling[2][1] - falling[1][1] == pytest.approx(2 * (falling[1][1] - falling[0][1]), abs=0.2)


@pytest.mark.parametrize("count", [1, 199, 200, 201, 12_345])
def test_a_curve_has_a_bounded_number_of_points(count: int) -> None:
    """Each drawn point is the mean of its neighbours, and the band reaches their extremes."""
    values = [(step, math.sin(step)) for step in range(1, count + 1)]
    points = curves.thin(values)
    assert len(points) <= curves.MAX_POINTS
    assert min(point.low for point in points) == min(y for _, y in values)
    assert max(point.high for point in points) == max(y for _, y in values)
    assert all(point.low <= point.y <= point.high for point in points)
    if count <= curves.MAX_POINTS:
        assert [(point.x, point.y) for point in points] == values
    assert len(curves.curves_svg("", [("a", values)])) < 40_000


@pytest.mark.parametrize(
    "values", [[], [(0, math.nan)], [(0, 0.0)], [(1, math.inf), (2, 1.0)], [(1, -3.0), (2, 1e-9)]]
)
def test_what_cannot_be_drawn_is_left_out(values: list[tuple[float, float]]) -> None:
    """No loss, no number, or negative ones: a picture all the same, with finite places."""
    (line,) = lines(curves.curves_svg("", [("a", values)]))
    assert len(line) == sum(math.isfinite(y) for _, y in values)
    assert all(0 <= x <= 460 and 0 <= y <= 300 for x, y in line)


def test_marks_are_round_numbers() -> None:
    """As a person would choose them."""
    text = curves.curves_svg("", [("rate", [(1, 0.00037), (1234, 0.0)])])
    told = [node.text for node in parsed(text).iter(f"{SVG}text")]
    assert {"0", "0.0001", "0.0002", "0.0003", "0.0004", "500", "1,000"} <= set(told)
