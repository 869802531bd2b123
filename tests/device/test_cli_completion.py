"""Completion in a real shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgepeft.cli import main

#: Asks for the completions of a line as bash does when Tab is pressed.
PRESS_TAB = """
eval "$(edgepeft completion bash)"
COMP_WORDS=({words}) COMP_CWORD={place}
_edgepeft_completion edgepeft
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A search path on which `edgepeft` is."""
    program = tmp_path / "edgepeft"
    source = f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\nfrom edgepeft.cli import main\nmain()\n"
    program.write_text(source)
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgepeft tr", {"train"}),
        ("edgepeft adapter ", {"show", "diff", "merge", "export"}),
        ("edgepeft adapter export --f", {"--format"}),
        ("edgepeft adapter export --format on", {"onnx", "onnx_adapter"}),
        ("edgepeft train --learning", {"--learning-rate"}),
        ("edgepeft completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(environment: dict[str, str], line: str, expected: set[str]) -> None:
    """Commands, options and their choices."""
    words = line.split(" ")
    script = PRESS_TAB.format(words=" ".join(f"'{word}'" for word in words), place=len(words) - 1)
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607 - the user's own
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    """It asks this program by the variable that click reads."""
    done = CliRunner().invoke(main, ["completion", shell], prog_name="edgepeft")
    assert done.exit_code == 0
    assert f"_EDGEPEFT_COMPLETE={shell}_complete" in done.stdout
