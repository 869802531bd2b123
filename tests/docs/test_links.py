"""Links of the documents lead somewhere: to a file of the repository, and to a heading that it has."""

import re
import subprocess

import pytest
from docs_messages import ROOT

PAGES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],  # noqa: S607
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()


def anchors(text: str) -> set[str]:
    """Headings as GitHub links to them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_local_links_resolve(page: str) -> None:
    """Of every page that is in the repository."""
    path = ROOT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{page}: {link}"
        assert found.is_relative_to(ROOT), f"{page}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(found.read_text()), f"{page}: {link}"


def test_every_page_is_reached() -> None:
    """From the README, or from what it links to."""
    seen: set[str] = set()
    waiting = ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.endswith(".md"):
            continue
        seen.add(page)
        for link in re.findall(r"\]\(([^)\s#]+)", (ROOT / page).read_text()):
            if not link.startswith("http"):
                target = ((ROOT / page).parent / link).resolve()
                pages = target.glob("*.md") if target.is_dir() else [target]
                waiting += [str(each.relative_to(ROOT)) for each in pages]
    assert {page for page in PAGES if not page.startswith("tests/")} <= seen
