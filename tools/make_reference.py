"""Writes docs/reference/ from the docstrings of both packages.

Usage: python tools/make_reference.py

griffe reads the sources and parses the docstrings; nothing of ours is imported.
"""

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
_GENERATED = "<!-- Written by tools/make_reference.py: change the docstrings, not this page. -->"
_WIDTH = 100

#: What the facade's signatures name, and the facade does not export.
_NAMED = [
    "edgepeft.data.contract.Data",
    "edgepeft.data.dataset.Dataset",
    "edgepeft.text.Message",
]
_NAMED_BY_EXPORT = ["edgepeft.manifest.TextInfo", "edgepeft.manifest.ImageInfo"]


def pages() -> dict[str, str]:
    """Every page of the reference, by its file's name."""
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "export"], docstring_parser=griffe.Parser.google)
    for package in ("edgepeft", "edgepeft_export"):
        loader.load(package)
    loader.resolve_aliases()
    find = loader.modules_collection.__getitem__
    device, exporter, errors = (find(path) for path in ("edgepeft", "edgepeft_export", "edgepeft.errors"))
    trees = [each for each in errors.members.values() if each.is_class]
    return {
        "edgepeft.md": _page(
            "edgepeft",
            "What `import edgepeft` gives on the device; its errors have [a page of their own](errors.md).",
            {"": _exported(device), "Types that signatures name": [find(path) for path in _NAMED]},
        ),
        "errors.md": _page(
            "Errors", _text(errors.docstring.value), {"": [*trees, find("edgepeft_export.ExportError")]}
        ),
        "edgepeft_export.md": _page(
            "edgepeft_export",
            "What `import edgepeft_export` gives on the workstation.",
            {
                "": _exported(exporter),
                "Hugging Face folders": [find("edgepeft_export.hf.load_folder")],
                "Types that signatures name": [find(path) for path in _NAMED_BY_EXPORT],
            },
        ),
    }


def _exported(module: Any) -> list[Any]:
    """What `__all__` names, functions first; errors stand on their own page."""
    names = sorted(map(str, module.exports), key=lambda name: (name[0].isupper(), name))
    return [module[name] for name in names if not name.endswith("Error")]


def _page(title: str, introduction: str, groups: dict[str, list[Any]]) -> str:
    lines = [f"# {title}", "", _GENERATED, "", introduction, ""]
    for heading, objects in groups.items():
        if heading:
            lines += [f"## {heading}", ""]
        for each in objects:
            lines += _object(each, "###" if heading else "##")
    return "\n".join(lines).rstrip() + "\n"


def _object(each: Any, level: str) -> Iterator[str]:
    """A heading, a signature, the docstring, and a class's public members."""
    yield from (f"{level} {each.name}", "")
    yield from _signature(each, each.name)
    yield from _docstring(each)
    if not each.is_class:
        return
    for member in each.members.values():
        if member.is_private or member.is_special or not member.has_docstring:
            continue
        yield from (f"{level}# {each.name}.{member.name}", "")
        yield from _signature(member, member.name)
        yield from _docstring(member)


def _signature(each: Any, name: str) -> Iterator[str]:
    """The declaration in a block of code, a parameter a line where one line would be long."""
    if each.is_attribute:
        shown = _declared(each) + ("  # read-only" if "property" in each.labels else "")
    elif each.is_class and not each.parameters:
        fields = [m for m in each.members.values() if m.is_attribute and m.annotation and not m.is_private]
        shown = "\n".join(map(_declared, fields))
    else:
        shown = each.signature(name=name, return_type=True) if each.is_function else each.signature()
        shown = re.sub(r"\((self|cls)(, |\))", lambda found: "()" if found[2] == ")" else "(", shown)
    if len(shown) > _WIDTH and not each.is_attribute and "(" in shown:
        head, rest = shown.split("(", 1)
        inside, tail = rest.rsplit(")", 1)
        parts = re.split(r", (?=\*|/|\w+:)", inside)
        shown = f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + f"){tail}"
    decorator = "@classmethod\n" if "classmethod" in each.labels else ""
    if shown:
        yield from ("```python", decorator + shown, "```", "")


def _declared(attribute: Any) -> str:
    about = f": {_public(attribute)}" if attribute.annotation else ""
    computed = "property" in attribute.labels or attribute.value is None
    return f"{attribute.name}{about}" + ("" if computed else f" = {attribute.value}")


def _public(attribute: Any) -> str:
    """An annotation; one that is private to its module, as a number within bounds, without its bounds."""
    text = str(attribute.annotation)
    alias = attribute.module.members.get(text) if text.startswith("_") else None
    return text if alias is None else re.sub(r"^Annotated\[(\w+),.*", r"\1", str(alias.value))


def _docstring(each: Any) -> Iterator[str]:
    if each.docstring is None:
        return
    for section in each.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield from (_text(section.value), "")
        else:
            yield from (f"{_TITLES.get(kind, kind.capitalize())}:", "")
            yield from (_ITEMS[kind](item) for item in section.value)
            yield ""


def _text(text: str) -> str:
    """Paragraphs on a line each; what is indented stays as it is."""
    parts = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(part if part.startswith("    ") else _one_line(part) for part in parts)


def _one_line(text: str) -> str:
    return " ".join(textwrap.dedent(text).split())


def _named(item: Any) -> str:
    about = f" (`{item.annotation}`)" if item.annotation else ""
    return f"- `{item.name}`{about}: {_one_line(item.description)}"


def _unnamed(item: Any) -> str:
    return f"- `{item.annotation}`: {_one_line(item.description)}"


_TITLES = {"parameters": "Arguments"}

_ITEMS: dict[str, Callable[[Any], str]] = {
    "parameters": _named,
    "attributes": _named,
    "returns": _unnamed,
    "yields": _unnamed,
    "raises": _unnamed,
}


def main() -> None:
    """Writes the pages, and removes what is no longer one."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    written = pages()
    for path in REFERENCE.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (REFERENCE / name).write_text(text)
    print(f"{REFERENCE}: {', '.join(written)}")


if __name__ == "__main__":
    main()
