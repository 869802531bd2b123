"""Writes the programs' own help into docs/cli.md: what stands under each "help:" mark, and a section for what is new.

Where torch is not installed, the help of edgepeft-export stays as it is.

Usage: python tools/make_cli_docs.py [--check]      --check changes nothing, and fails if something would change
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

#: Columns of a help text.
_COLUMNS = 100

_BLOCK = re.compile(r"(<!-- help: (?P<command>[a-z_ -]+) -->\n```\n).*?(\n```\n)", re.DOTALL)


def helps() -> dict[str, str]:
    """The help of every command that can be run here, by its whole name."""
    from edgepeft.cli import main

    programs: dict[str, click.Command] = {"edgepeft": main}
    if importlib.util.find_spec("torch") is not None:
        from edgepeft_export.cli import main as export_main

        programs["edgepeft-export"] = export_main
    return {name: text for program in programs.items() for name, text in _helps(*program)}


def _helps(
    name: str, command: click.Command, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """A command's help, then those of the commands below it."""
    settings = {"terminal_width": _COLUMNS, "max_content_width": _COLUMNS}
    context = click.Context(command, parent, info_name=name.rsplit(" ", maxsplit=1)[-1], **settings)  # type: ignore[arg-type]
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _helps(f"{name} {below}", found, context)


def updated(page: str, texts: dict[str, str]) -> str:
    """The page with current help texts; a command without a mark gets a section at the end.

    Raises:
        ValueError: The page has a mark of a command that is gone.
    """
    seen = set()

    def replaced(block: re.Match[str]) -> str:
        command = block["command"]
        seen.add(command)
        if command not in texts:
            if command.split(" ")[0] in texts:
                raise ValueError(f"docs/cli.md tells of {command!r}, which is gone: remove its section")
            return block[0]
        return f"{block[1]}{texts[command]}{block[3]}"

    page = _BLOCK.sub(replaced, page)
    new = [name for name in texts if name not in seen]
    return page + "".join(f"\n## {name}\n<!-- help: {name} -->\n```\n{texts[name]}\n```\n" for name in new)


def main() -> int:
    """Updates the page; with --check, 1 if it would change."""
    old = PAGE.read_text()
    new = updated(old, helps())
    if "--check" in sys.argv[1:]:
        if new != old:
            print("docs/cli.md is not what the programs say. Run: python tools/make_cli_docs.py")
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
