"""The environment for aarch64: what is kept between runs, what is taken from the host, and how its Python is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools/arm64"))

import debian  # noqa: E402
import environment  # noqa: E402
import launcher  # noqa: E402
import suite  # noqa: E402

URIS = """\
'https://example.org/other/dists/nodistro/InRelease' example.org_other_dists_nodistro_InRelease 0
'https://example.org/debian-security/dists/bookworm-security/InRelease' security 0
'https://example.org/debian/dists/bookworm/InRelease' example.org_debian_dists_bookworm_InRelease 0
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that are made; none is made really, and there is no Docker."""
    found: list[str] = []
    monkeypatch.setattr(launcher, "container_works", lambda *_: False)
    for part, method in (
        ("packages", "_install_packages"),
        ("python", "_make_python"),
        ("edgepeft", "_install_edgepeft"),
    ):
        monkeypatch.setattr(
            environment.Environment, method, lambda *_, name=part: found.append(name), raising=True
        )
    return found


def test_what_has_not_changed_is_kept(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time makes nothing; an edited source only the wheel."""
    source = tmp_path / "module.py"
    source.write_text("one = 1\n")
    monkeypatch.setattr(environment, "sources", lambda: [source])
    for _ in range(2):
        environment.Environment(tmp_path / "arm64").make()
    assert made == ["packages", "python", "edgepeft"]
    source.write_text("one = 2\n")
    environment.Environment(tmp_path / "arm64").make()
    assert made == ["packages", "python", "edgepeft", "edgepeft"]


def test_other_requirements_make_the_packages_anew(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the wheel, which lies among them."""
    environment.Environment(tmp_path).make()
    monkeypatch.setattr(environment, "requirements", lambda: ["numpy>=3"])
    environment.Environment(tmp_path).make()
    assert made == ["packages", "python", "edgepeft", "packages", "edgepeft"]


def test_what_failed_is_tried_again(made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it had been made before, from something else."""

    def fails(*_: object) -> None:
        raise SystemExit("no network")

    environment.Environment(tmp_path).make()
    with monkeypatch.context() as patched:
        patched.setattr(environment, "digest", lambda _: "other")
        patched.setattr(environment.Environment, "_make_python", fails)
        with pytest.raises(SystemExit, match="no network"):
            environment.Environment(tmp_path).make()
    made.clear()
    environment.Environment(tmp_path).make()
    assert "python" in made


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("there", ["a folder", "an environment", "a file"])
def test_what_is_somebody_else_s_stays(made: list[str], tmp_path: Path, there: str, *, clean: bool) -> None:
    """A folder with something in it that this tool did not make is refused in a line, and nothing in it is touched."""
    folder = tmp_path / "mine"
    kept = (
        folder
        / {"a folder": "root/mine", "an environment": launcher.SITE_PACKAGES}.get(there, "")
        / "mine.py"
    )
    if there == "a file":
        kept = folder
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(
        SystemExit, match=r"mine: is something else, .* Give a folder that is new or empty\.$"
    ):
        environment.Environment(folder).make(clean=clean)
    assert kept.read_text() == "mine"
    assert made == []


def test_everything_is_made_anew(made: list[str], tmp_path: Path) -> None:
    """In a folder that this tool made, where that is asked for; an empty one is as good as none."""
    for clean in (True, False):
        environment.Environment(tmp_path).make(clean=clean)
    (tmp_path / "old").touch()
    environment.Environment(tmp_path).make(clean=True)
    assert made == ["packages", "python", "edgepeft"] * 2
    assert not (tmp_path / "old").exists()


def test_a_folder_named_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python compares paths: those that are given to it are whole, without `..`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = environment.Environment(Path("../arm64"))
    assert (made.folder, made.site) == (tmp_path / "arm64", tmp_path / "arm64" / launcher.SITE_PACKAGES)


def test_a_command_that_fails_is_named_in_a_line() -> None:
    """Not with the program that it was given, of several lines."""
    with pytest.raises(SystemExit) as failed:
        environment._run(sys.executable, "-c", "import sys\nsys.exit('not there')", "argument")
    assert str(failed.value).splitlines() == [f"{sys.executable} -c argument: exit code 1", "not there"]


def test_the_requirements_are_a_device_s() -> None:
    """With what its tests take, and nothing of a workstation's."""
    found = environment.requirements()
    names = {one.split(">")[0].split("=")[0] for one in found}
    assert {"numpy", "onnxruntime", "tokenizers", "Pillow", "pytest", "hypothesis"} <= names
    assert not {"torch", "onnx", "ruff", "onnxruntime-training-cpu"} & names


def test_the_wheel_is_made_of_what_pyproject_names() -> None:
    """Of both packages, and of what their metadata takes."""
    found = environment.sources()
    assert {
        ROOT / name
        for name in (
            "pyproject.toml",
            "README.md",
            "edgepeft/__init__.py",
            "edgepeft_command.py",
            "export/edgepeft_export/cli.py",
        )
    } <= set(found)


def test_the_mirror_is_the_host_s() -> None:
    """Of Debian itself, not of another source or of the security updates."""
    assert debian.mirror_of(URIS) == "https://example.org/debian"
    with pytest.raises(SystemExit, match="apt knows no mirror of Debian"):
        debian.mirror_of(URIS.splitlines()[0])


def test_no_hook_of_the_host_runs() -> None:
    """Of its settings only those of the network are taken."""
    dump = 'APT::Update::Post-Invoke:: "rm -f /var/cache/apt/*";\nAcquire::http::Proxy "http://proxy:1";\nDir "/";\n'
    assert debian.network_settings(dump) == 'Acquire::http::Proxy "http://proxy:1";\n'


@pytest.mark.parametrize("given", [None, "cortex-a76"])
def test_qemu_is_told_the_processor(tmp_path: Path, given: str | None) -> None:
    """By a variable that programs started from within see too; arguments arrive as they are, whatever the folder's name."""
    folder = tmp_path / "a folder"
    python = launcher.write(folder, launcher.qemu(folder))
    program = folder / "qemu-aarch64"
    program.write_text('#!/bin/sh\necho "$QEMU_CPU"\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if name != "QEMU_CPU"}
    done = subprocess.run(
        [python, "-c", "print('a b')"],
        capture_output=True,
        text=True,
        check=True,
        env=variables | ({"QEMU_CPU": given} if given else {}),
    )
    cpu, *command = done.stdout.splitlines()
    assert cpu == (given or "cortex-a72")
    expected = ["-L", f"{folder}/root", "-0", str(python), f"{folder}/root/usr/bin/python3.11"]
    assert command == [*expected, "-c", "print('a b')"]


@pytest.mark.parametrize(("machine", "unpacked"), [("aarch64", False), ("x86_64", True)])
def test_a_container_is_used_where_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, *, unpacked: bool
) -> None:
    """Where Docker's Python is none for aarch64, Debian's packages are unpacked instead."""
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/log\necho {machine}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=os.pathsep)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("QEMU_CPU", raising=False)
    calls: list[Path] = []
    monkeypatch.setattr(debian, "unpack", calls.append)
    made = environment.Environment(tmp_path / "arm64")
    for part in ("_install_packages", "_install_edgepeft"):
        monkeypatch.setattr(environment.Environment, part, lambda *_: None)
    made.make()
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked[:2] == ["run", "--rm"]
    assert {"linux/arm64", f"{ROOT}:{ROOT}", "QEMU_CPU=cortex-a72", f"PYTHONPATH={made.site}"} <= set(asked)
    assert calls == ([made.folder] if unpacked else [])
    assert ("docker run" in made.python.read_text()) == (not unpacked)
    docker.write_text("#!/bin/sh\nexit 1\n")
    made.make()
    assert calls == [made.folder], "where Docker is no more, Python is made anew; else it is kept"
    assert "docker run" not in made.python.read_text()


def test_without_docker_there_is_no_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That Docker's program is not there is no error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not launcher.container_works(tmp_path, ROOT)


def test_every_test_that_is_named_is_there() -> None:
    """A file that was renamed is missed here already."""
    assert [
        name for name in (*suite.TESTS, suite.ACROSS) if not (ROOT / name.partition("::")[0]).exists()
    ] == []


@pytest.mark.parametrize(("seconds", "passed"), [(60, True), (0.1, False)])
def test_tests_that_do_not_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seconds: float,
    *,
    passed: bool,
) -> None:
    """Are ended, fail, and are told in a line."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{'exit 0' if passed else 'exec sleep 60'}\n")
    python.chmod(0o755)
    monkeypatch.setattr(suite, "PATIENCE", seconds)
    assert suite.run(python, (), {}) is passed
    assert ("== the tests did not end within" in capfd.readouterr().out) is not passed


@pytest.mark.parametrize("name", ["environment", "suite"])
def test_the_tools_explain_themselves(name: str) -> None:
    """What they do, in --help."""
    command = [sys.executable, ROOT / f"tools/arm64/{name}.py", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Raspberry Pi 4" in shown
