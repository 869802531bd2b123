"""HTML and SVG as trees of elements: whatever text comes in, from a file or a model, goes out as text."""

import re
from xml.etree.ElementTree import Element, tostring

#: What no document may hold: control characters other than tab and newline, halves of pairs, two non-characters.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_REPLACEMENT = "\ufffd"


def element(tag: str, *content: Element | str, **attributes: str | float) -> Element:
    """An element with its content in order; `class_` gives the attribute class, `stroke_width` stroke-width."""
    named = {name.strip("_").replace("_", "-"): _clean(str(value)) for name, value in attributes.items()}
    node = Element(tag, named)
    for part in content:
        if isinstance(part, Element):
            node.append(part)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + _clean(part)
        else:
            node.text = (node.text or "") + _clean(part)
    return node


def html(root: Element) -> str:
    """An element as HTML; the content of style elements stands as it is."""
    return tostring(root, encoding="unicode", method="html")


def xml(root: Element) -> str:
    """An element as XML."""
    return tostring(root, encoding="unicode")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(_REPLACEMENT, text.replace("\r\n", "\n"))
