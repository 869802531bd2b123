"""docs/troubleshooting.md has an entry for every error, and no entry for one that is gone."""

import re

from docs_messages import HOLE, ROOT, messages

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def quoted() -> list[str]:
    """What the left columns quote."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [fragment for row in rows for fragment in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_every_message_has_an_entry() -> None:
    """One that only puts a place before another's message is covered by that one."""
    found = messages()
    assert len(found) > 200
    fragments = quoted()
    missing = [
        f"{where}: {text}"
        for where, text in found
        if re.search(r"\w", text) and not any(fragment in text for fragment in fragments)
    ]
    assert not missing, "docs/troubleshooting.md lacks an entry for\n" + "\n".join(missing)


def test_every_entry_is_a_message() -> None:
    """What is quoted is what is said."""
    texts = [text for _, text in messages()]
    stale = [fragment for fragment in quoted() if not any(fragment in text for text in texts)]
    assert not stale, f"no error says {stale}"


def test_entries_are_told_apart() -> None:
    """A fragment that is too short would cover errors that nobody thought of."""
    texts = [text for _, text in messages()]
    for fragment in quoted():
        count = sum(fragment in text for text in texts)
        assert len(re.sub(rf"[{HOLE}\W]", "", fragment)) >= 5, fragment
        assert count <= 3, f"{fragment!r} is in {count} messages"


def test_the_page_has_what_it_promises() -> None:
    """Rows have three cells; groups are linked from the top."""
    for line in PAGE.splitlines():
        if line.startswith("| "):
            assert len(line.split(" | ")) == 3, line
    for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE):
        assert f"[{heading}](#{heading.lower().replace(' ', '-')})" in PAGE
