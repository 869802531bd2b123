"""Collects the sample's texts from Debian's package index: what a package is, in its maintainers' words.

Usage: python samples/text_categories/collect.py PACKAGES TRANSLATION

PACKAGES and TRANSLATION are the unpacked dists/bookworm/main/binary-amd64/Packages and main/i18n/Translation-en of
a Debian mirror. Writes the files in data/, beside this program.
"""

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

#: Every value of the facet `role` with as many packages as are needed below, and its name in words.
LABELS = {
    "app-data": "data of an application",
    "data": "data",
    "devel-lib": "development files",
    "documentation": "documentation",
    "plugin": "plug-in",
    "program": "program",
    "shared-lib": "shared library",
}
#: Texts of each category in each file.
FILES = {"examples": 40, "held_out": 40, "tuning": 20}
#: Characters of a text.
_SHORTEST, _LONGEST = 60, 350
_SEED = 0


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Each stanza of a Debian control file as its fields."""
    for stanza in path.read_text(encoding="utf-8").split("\n\n"):
        fields = re.finditer(r"^([\w-]+): ?(.*(?:\n .*)*)", stanza, re.MULTILINE)
        yield {match[1]: match[2] for match in fields}


def long_description(description: str, names: set[str]) -> str:
    """A description without its synopsis, in one line, and with no name of the package in it."""
    lines = (line.strip() for line in description.split("\n")[1:])
    text = " ".join(line for line in lines if line != ".")
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the package", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip()


def collect(packages: Path, translation: Path) -> dict[str, list[tuple[str, str]]]:
    """Package and text by role, in random order: packages with one role, one of each source, no text twice."""
    descriptions = {
        fields["Description-md5"]: fields["Description-en"] for fields in stanzas(translation) if fields
    }
    found = [
        fields
        for fields in stanzas(packages)
        if "Tag" in fields and fields["Description-md5"] in descriptions
    ]
    random.Random(_SEED).shuffle(found)  # noqa: S311 - a draw that anybody can repeat
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    seen: set[str] = set()
    for fields in found:
        name = fields["Package"]
        source = fields.get("Source", name).split()[0]
        roles = re.findall(r"role::([\w:-]+)", fields["Tag"])
        text = long_description(descriptions[fields["Description-md5"]], {name, source})
        if len(roles) != 1 or {source, text} & seen or not _SHORTEST <= len(text) <= _LONGEST:
            continue
        seen |= {source, text}
        rows[roles[0]].append((name, text))
    return rows


def main(packages: Path, translation: Path) -> None:
    """Writes data/NAME.jsonl, and which package each line is of."""
    rows = collect(packages, translation)
    print({role: len(found) for role, found in rows.items()})
    data = Path(__file__).parent / "data"
    origins, start = [], 0
    for file, count in FILES.items():
        picked = [(LABELS[role], *row) for role in LABELS for row in rows[role][start : start + count]]
        start += count
        assert len(picked) == count * len(LABELS), "a role has too few packages"
        lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) for label, _, text in picked)
        (data / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        origins += [f"{file}.jsonl\t{line}\t{name}" for line, (_, name, _) in enumerate(picked, 1)]
    (data / "packages.tsv").write_text("\n".join(["file\tline\tpackage", *origins]) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
