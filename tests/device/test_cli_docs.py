"""docs/cli.md says what the programs say: their help, and the keys of their JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgepeft.cli import main
from tools.make_cli_docs import PAGE, helps, updated

_JSON = re.compile(r"<!-- json: (edgepeft [a-z ]+) -->\n```json\n(.*?)```", re.DOTALL)


def test_the_page_shows_the_programs_help() -> None:
    """Of every command, as it is now; without torch, of the device's commands."""
    page = PAGE.read_text()
    assert updated(page, helps()) == page, "run: python tools/make_cli_docs.py"


def test_the_help_is_what_a_user_sees() -> None:
    """The tool takes it from the same place as --help."""
    shown = CliRunner().invoke(
        main, ["adapter", "merge", "--help"], prog_name="edgepeft", terminal_width=100, max_content_width=100
    )
    assert shown.stdout.strip() == helps()["edgepeft adapter merge"].strip()


def test_new_commands_and_lost_ones() -> None:
    """A command without a mark gets a section; a mark without a command is an error; others are left alone."""
    page = "# Title\n<!-- help: a b -->\n```\nold\n```\nprose\n<!-- help: other c -->\n```\nkept\n```\n"
    assert updated(page, {"a": "top", "a b": "new"}) == (
        page.replace("old", "new") + "\n## a\n<!-- help: a -->\n```\ntop\n```\n"
    )
    with pytest.raises(ValueError, match="'a b', which is gone"):
        updated(page, {"a": "top"})


@pytest.fixture
def commands(handmade: Path, tmp_path: Path) -> dict[str, list[object]]:
    """A run of each command whose answer the page shows."""
    bundle = handmade / "chat"
    adapter = bundle / "adapters" / "initial"
    data = tmp_path / "facts.jsonl"
    data.write_text('{"text": "the key is here."}\n')
    return {
        "edgepeft info": [bundle],
        "edgepeft doctor": [bundle],
        "edgepeft bench": [bundle, "--steps", 1],
        "edgepeft train": [bundle, "--data", data, "--output", tmp_path / "alice", "--max-steps", 1],
        "edgepeft evaluate": [bundle, "--data", data],
        "edgepeft predict": [handmade / "classifier", "--text", "the key"],
        "edgepeft generate": [bundle, "--prompt", "the key", "--max-new-tokens", 2],
        "edgepeft adapter show": [adapter, bundle],
        "edgepeft adapter diff": [adapter, adapter],
        "edgepeft adapter merge": [adapter, adapter, "--output", tmp_path / "merged"],
        "edgepeft adapter export": [bundle, adapter, tmp_path / "out", "--format", "onnx"],
    }


def test_the_page_shows_the_keys_of_the_answers(commands: dict[str, list[object]]) -> None:
    """Each JSON example has the keys that the command prints, and those of its lists too."""
    examples = {command: json.loads(text) for command, text in _JSON.findall(PAGE.read_text())}
    assert commands.keys() == examples.keys()
    for command, arguments in commands.items():
        line = [*command.split(" ")[1:], *map(str, arguments), "--json"]
        done = CliRunner().invoke(main, line)
        assert done.exit_code == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer.keys() == examples[command].keys(), command
        for key, value in examples[command].items():
            _check_rows(f"{command} {key}", value, answer[key])


def _check_rows(where: str, documented: object, answered: object) -> None:
    keys: Callable[[object], set[str]] = lambda rows: {key for row in rows for key in row}  # noqa: E731
    if isinstance(documented, list) and documented and isinstance(documented[0], dict) and answered:
        assert keys(documented) == keys(answered), where
