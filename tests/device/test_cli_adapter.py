"""`edgepeft adapter`: show, diff, merge and export, and what each answers as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from foreign_files import snapshot

import edgepeft
from edgepeft.cli import main


def run(*arguments: object) -> Result:
    """Runs the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="edgepeft")


def told(*arguments: object) -> dict[str, Any]:
    """The JSON that a command prints; it succeeds, and prints nothing else."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout, parse_constant=pytest.fail))


@pytest.fixture
def chat(handmade: Path) -> Path:
    return handmade / "chat"


def saved(folder: Path, bundle: Path, seed: int, **settings: object) -> Path:
    """An adapter for a bundle, with random values."""
    initial = edgepeft.Bundle.open(bundle).initial_adapter()
    random = np.random.default_rng(seed)
    tensors = {
        name: random.standard_normal(value.shape).astype(np.float32)
        for name, value in sorted(initial.tensors.items())
    }
    edgepeft.Adapter(tensors, {**initial.config, **settings}, initial.base_id).save(folder)
    return folder


@pytest.fixture
def alice(chat: Path, tmp_path: Path) -> Path:
    return saved(tmp_path / "alice", chat, 1)


@pytest.fixture
def bob(chat: Path, tmp_path: Path) -> Path:
    return saved(tmp_path / "bob", chat, 2)


def test_show(chat: Path, alice: Path) -> None:
    """Method, rank, modules, every tensor with its norm, and whether it fits."""
    facts = told("adapter", "show", alice, chat)
    adapter = edgepeft.Adapter.load(alice)
    assert (facts["peft_type"], facts["rank"], facts["target_modules"]) == ("LORA", 2, ["head"])
    assert facts["base_id"] == adapter.base_id
    assert facts["parameters"] == 2 * 16 + 33 * 2
    assert facts["bytes"] == adapter.size == sum(tensor["bytes"] for tensor in facts["tensors"])
    assert {tensor["name"]: tensor["shape"] for tensor in facts["tensors"]} == {
        name: list(value.shape) for name, value in adapter.tensors.items()
    }
    for tensor in facts["tensors"]:
        assert tensor["norm"] == pytest.approx(float(np.linalg.norm(adapter.tensors[tensor["name"]])))
    assert (facts["fits"], facts["reason"]) == (True, None)
    assert "fits" not in told("adapter", "show", alice), "no bundle, no answer"
    text = run("adapter", "show", alice, chat).stdout
    assert all(word in text for word in ("LORA", "head", "lora_A", "[2, 16]", "yes", adapter.base_id))


def test_show_says_why_an_adapter_does_not_fit(handmade: Path, alice: Path) -> None:
    """It is an answer, not a failure: exit code 0."""
    facts = told("adapter", "show", alice, handmade / "regression")
    assert facts["fits"] is False
    assert "made for base" in facts["reason"]
    assert (
        "no: the adapter was made for base" in run("adapter", "show", alice, handmade / "regression").stdout
    )


def test_show_an_adapter_with_broken_values(alice: Path) -> None:
    """A norm that is no number becomes null."""
    adapter = edgepeft.Adapter.load(alice)
    name = min(adapter.tensors)
    broken = adapter.tensors[name].copy()
    broken[0] = np.nan
    edgepeft.Adapter({**adapter.tensors, name: broken}, adapter.config, adapter.base_id).save(alice)
    assert told("adapter", "show", alice)["tensors"][0]["norm"] is None


def test_numbered_modules_are_in_their_order(chat: Path, tmp_path: Path) -> None:
    """Layer 2 before layer 10; a number of thousands of digits is only a long one."""
    long = saved(tmp_path / "long", chat, 1, target_modules=["1" * 5000, "2"])
    assert run("adapter", "show", long).exit_code == 0
    modules = ["10", "2", "0", "head1", "11", "1"]
    text = run("adapter", "show", saved(tmp_path / "numbered", chat, 1, target_modules=modules)).stdout
    assert "0, 1, 2, 10, 11, head1" in text
    numbers = saved(tmp_path / "layers", chat, 1, layers_to_transform=[10, 2, 0])
    assert "0, 2, 10" in run("adapter", "show", numbers).stdout


def test_an_adapter_cannot_steer_the_terminal(chat: Path, tmp_path: Path) -> None:
    """Escape codes and markup in its configuration are shown as letters."""
    hostile = saved(tmp_path / "hostile", chat, 1, target_modules=["\x1b[2Jgone", "[red]head[/red]"])
    text = run("adapter", "show", hostile).stdout
    assert "\x1b" not in text
    assert "?[2Jgone" in text
    assert "[red]head[/red]" in text


def test_diff(alice: Path, bob: Path) -> None:
    """Every tensor, the largest change first, and the total."""
    facts = told("adapter", "diff", alice, bob)
    one, other = edgepeft.Adapter.load(alice).tensors, edgepeft.Adapter.load(bob).tensors
    changes = [tensor["relative_l2"] for tensor in facts["tensors"]]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) == 2
    for tensor in facts["tensors"]:
        a, b = one[tensor["name"]], other[tensor["name"]]
        longer = max(np.linalg.norm(a), np.linalg.norm(b))
        assert tensor["relative_l2"] == pytest.approx(np.linalg.norm(a - b) / longer, rel=1e-5)
        assert tensor["max_abs"] == pytest.approx(np.abs(a - b).max())
    assert min(changes) <= facts["total"]["relative_l2"] <= max(changes)
    assert facts["settings"] == {}
    text = run("adapter", "diff", alice, bob).stdout
    assert (
        text.index(facts["tensors"][0]["name"])
        < text.index(facts["tensors"][1]["name"])
        < text.index("total")
    )


def test_diff_of_settings_and_bases(chat: Path, handmade: Path, alice: Path, tmp_path: Path) -> None:
    """What the configurations say differently, and tensors that cannot be compared."""
    other = saved(tmp_path / "other", chat, 1, r=7)
    assert told("adapter", "diff", alice, other)["settings"] == {"r": [2, 7]}
    assert "r  2 -> 7" in run("adapter", "diff", alice, other).stdout
    foreign = saved(tmp_path / "foreign", handmade / "regression", 1)
    facts = told("adapter", "diff", alice, foreign)
    assert facts["base_ids"][0] != facts["base_ids"][1]
    assert facts["other_shape"]
    assert "of another shape" in run("adapter", "diff", alice, foreign).stdout


def test_diff_of_adapters_without_a_common_tensor(handmade: Path, alice: Path, tmp_path: Path) -> None:
    """There is no distance, rather than one of 0, which is that of an adapter from itself."""
    foreign = edgepeft.Adapter.load(saved(tmp_path / "foreign", handmade / "regression", 1))
    tensors = {f"other.{name}": value for name, value in foreign.tensors.items()}
    edgepeft.Adapter(tensors, foreign.config).save(tmp_path / "other")
    facts = told("adapter", "diff", alice, tmp_path / "other")
    assert (facts["tensors"], facts["total"]) == ([], None)
    text = run("adapter", "diff", alice, tmp_path / "other").stdout
    assert text.endswith("no tensor is in both in one shape: there is no distance\n")
    assert "total" not in text


def test_show_leaves_out_what_says_nothing(chat: Path, tmp_path: Path) -> None:
    """Settings as PEFT writes them where they change nothing; lists are words, and layers are in order."""
    settings = {
        "qalora_group_size": 16,
        "bias": "none",
        "use_dora": False,
        "modules_to_save": ["score", "head"],
    }
    folder = saved(tmp_path / "one", chat, 1, **settings)
    assert told("adapter", "show", folder)["settings"] == {
        "lora_alpha": 4,
        "modules_to_save": ["score", "head"],
    }
    text = run("adapter", "show", folder).stdout
    assert re.search(r"modules to save +head, score", text)
    adapter = edgepeft.Adapter.load(folder)
    value = next(iter(adapter.tensors.values()))
    edgepeft.Adapter({f"layers.{number}.a": value for number in (10, 2, 1)}, adapter.config).save(folder)
    names = [tensor["name"] for tensor in told("adapter", "show", folder)["tensors"]]
    assert names == ["layers.1.a", "layers.2.a", "layers.10.a"]


def test_diff_with_itself(alice: Path) -> None:
    """Nothing differs; an angle with a tensor of zeros is null."""
    facts = told("adapter", "diff", alice, alice)
    assert facts["total"] == {"relative_l2": 0.0, "max_abs": 0.0, "cosine": pytest.approx(1.0)}
    assert facts["base_ids"] is None


def test_merge(chat: Path, alice: Path, bob: Path, tmp_path: Path) -> None:
    """Weights by rows; the result fits the bundle, and another merge replaces it."""
    output = tmp_path / "everybody"
    facts = told("adapter", "merge", alice, bob, "--weights", "3,1", "--output", output)
    assert (facts["weights"], facts["replaced"]) == ([3.0, 1.0], False)
    one, other = edgepeft.Adapter.load(alice).tensors, edgepeft.Adapter.load(bob).tensors
    for name, value in edgepeft.Adapter.load(output).tensors.items():
        np.testing.assert_allclose(value, 0.75 * one[name] + 0.25 * other[name], rtol=1e-6, atol=1e-7)
    assert told("adapter", "show", output, chat)["fits"] is True
    line = run("adapter", "merge", alice, bob, "--output", output).stdout
    assert line.endswith("the mean of 2 adapters; replaced the adapter that was there\n")
    line = run("adapter", "merge", alice, bob, "--output", tmp_path / "other").stdout
    assert line.endswith("the mean of 2 adapters\n")
    for name, value in edgepeft.Adapter.load(output).tensors.items():
        np.testing.assert_allclose(value, 0.5 * one[name] + 0.5 * other[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("1", "1 weights for 2 adapters"),
        ("1,half", "expected numbers separated by commas"),
        ("1,", "expected numbers separated by commas"),
        ("1,-1", "a weight is -1.0"),
        ("1,nan", "a weight is nan"),
        ("0,0", "all weights are 0"),
    ],
)
def test_merge_with_wrong_weights(alice: Path, bob: Path, tmp_path: Path, weights: str, words: str) -> None:
    """Wrong use: exit code 2, one line, nothing written."""
    before = snapshot(tmp_path)
    done = run("adapter", "merge", alice, bob, f"--weights={weights}", "--output", tmp_path / "all")
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == before


def test_merge_of_adapters_that_do_not_go_together(chat: Path, alice: Path, tmp_path: Path) -> None:
    """A failure: exit code 1, which adapter and what."""
    other = saved(tmp_path / "other", chat, 1, lora_alpha=99)
    before = snapshot(tmp_path)
    done = run("adapter", "merge", alice, other, "--output", tmp_path / "all")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: adapter 2 has lora_alpha '99', adapter 1 has '4'.")
    assert snapshot(tmp_path) == before


def test_merge_of_one(alice: Path, tmp_path: Path) -> None:
    """Is the adapter itself: two are asked for."""
    done = run("adapter", "merge", alice, "--output", tmp_path / "all")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "Error: there is one adapter to average; give two or more.\n"


def test_export_lists_its_formats() -> None:
    """A line each; click's mark for that is not shown."""
    text = run("adapter", "export", "--help").stdout
    assert "\\b" not in text
    assert "\n  peft          a folder that HF PEFT opens\n  onnx_adapter  " in text


def test_merge_says_what_it_does_to_lora() -> None:
    """The mean of factors is not the mean of products."""
    text = " ".join(run("adapter", "merge", "--help").stdout.split())
    assert "For LoRA this averages the factors A and B, not their products" in text


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("peft", ["adapter_config.json", "adapter_model.safetensors"]),
        pytest.param(
            "onnx_adapter", ["made"], marks=pytest.mark.stock("cannot write the format, which came after it")
        ),
        ("onnx", ["base.safetensors", "model.onnx"]),
    ],
)
def test_export(chat: Path, alice: Path, tmp_path: Path, kind: str, files: list[str]) -> None:
    """In each format; a second time it is refused, and what is there stays."""
    output = tmp_path / "made"
    command = ("adapter", "export", chat, alice, output, "--format", kind)
    facts = told(*command)
    assert facts["format"] == kind
    assert sorted(facts["files"]) == files
    assert all(size > 0 for size in facts["files"].values())
    before = snapshot(tmp_path)
    again = run(*command)
    assert again.exit_code == 1
    assert again.stderr == f"Error: {output}: exists. Give another place, or remove it first.\n"
    assert snapshot(tmp_path) == before
    text = run("adapter", "export", chat, alice, tmp_path / "other", "--format", kind).stdout
    assert all(f"{name} " in text for name in files if name != "made")


def test_export_without_a_format(chat: Path, alice: Path, tmp_path: Path) -> None:
    """The line lists the formats."""
    done = run("adapter", "export", chat, alice, tmp_path / "made")
    assert done.exit_code == 2
    assert all(kind in done.stderr for kind in ("'--format'", "peft", "onnx_adapter", "onnx"))
    assert done.stderr.count("\n") == 1
