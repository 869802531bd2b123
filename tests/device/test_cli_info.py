"""`edgepeft info`: the drawing of a bundle."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from foreign_files import change_manifest

import edgepeft
from edgepeft import estimate, ort_package
from edgepeft.cli import main
from edgepeft.engines.choice import choose
from edgepeft.errors import EngineError


def shown(bundle: Path) -> str:
    done = CliRunner().invoke(main, ["info", str(bundle)])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def told(bundle: Path) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["info", str(bundle), "--json"])
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_language_model(bundles: Path) -> None:
    """Model, task, adapter tensors of all layers together, sizes with bars, engines, memory."""
    text = shown(bundles / "tiny-llama")
    for words in (
        "LlamaForCausalLM",
        "causal_lm",
        "LORA, 1,792 parameters, 7.2 kB",
        "2 x base_model.model.model.layers.*.self_attn.q_proj.lora_A.weight [4, 64]",
        "base.safetensors",
        "\u2588",
        "engines  stock",
        "length 64",
        "length 128",
        "estimated",
    ):
        assert words in text


def test_the_engine_that_would_run(bundles: Path) -> None:
    """It is the one that does, by the package that is installed; the bundle is made for both."""
    package = ort_package.installed()
    facts = told(bundles / "conv-net")
    assert facts["engines"] == ["stock", "ort-training"]
    assert facts["engine"] == edgepeft.load(bundles / "conv-net").engine.name
    assert facts["engine_reason"] == f"{package.name} {package.version} is installed"
    assert f"here  {facts['engine']} would run: {facts['engine_reason']}" in shown(bundles / "conv-net")


def test_no_engine_can_run(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is shown all the same, with the reason."""

    def refuse() -> ort_package.Package:
        raise EngineError("two overwrite each other.")

    monkeypatch.setattr(ort_package, "installed", refuse)
    assert told(bundles / "conv-net")["engine"] is None
    assert "here  none can run: two overwrite each other." in shown(bundles / "conv-net")


def test_a_classifier(bundles: Path) -> None:
    """Its classes by name."""
    assert "classes  3: red, green, blue" in shown(bundles / "tiny-bert")
    assert told(bundles / "tiny-bert")["labels"] == ["red", "green", "blue"]
    assert "classes  10: without names" in shown(bundles / "conv-net")


def test_the_memory_is_the_estimate(bundles: Path) -> None:
    """By batch size and length, no longer than the model takes; an image has no length."""
    manifest = edgepeft.Bundle.open(bundles / "tiny-llama").manifest
    rows = told(bundles / "tiny-llama")["training_memory"]
    assert [(row["batch_size"], row["length"]) for row in rows] == [
        (b, n) for b in (1, 2, 4, 8) for n in (64, 128)
    ]
    engine = choose(manifest).engine
    for row in rows:
        expected = estimate.training_memory(manifest, row["batch_size"], row["length"], engine=engine)
        assert expected is not None
        assert row["bytes"] == expected.total
    images = told(bundles / "conv-net")["training_memory"]
    assert [(row["batch_size"], row["length"]) for row in images] == [
        (1, None),
        (2, None),
        (4, None),
        (8, None),
    ]


def test_sizes_add_up(bundles: Path) -> None:
    """The bundle's bytes are those of its files; the base is most of a real one."""
    facts = told(bundles / "tiny-llama")
    manifest = edgepeft.Bundle.open(bundles / "tiny-llama").manifest
    assert facts["bundle_bytes"] == sum(file.size for file in manifest.files.values())
    assert facts["base_bytes"] == manifest.files["base.safetensors"].size


def test_a_bundle_that_says_nothing_about_memory(handmade: Path) -> None:
    """Is shown all the same."""
    assert "memory for a training: the exporter could not tell" in shown(handmade / "chat")
    assert told(handmade / "chat")["training_memory"] == []


def test_a_bundle_cannot_steer_the_terminal(handmade: Path, tmp_path: Path) -> None:
    """Escape codes and markup in its texts are shown as letters."""
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(handmade / "chat", bundle)
    change_manifest(bundle, lambda content: content["model"].update(name="\x1b[2J[red]x[/red]"))
    text = shown(bundle)
    assert "\x1b" not in text
    assert "?[2J[red]x[/red]" in text


@pytest.mark.parametrize("name", ["chat", "classifier", "regression"])
def test_every_bundle_can_be_shown(handmade: Path, name: str) -> None:
    """As a drawing and as JSON, with the same keys."""
    assert shown(handmade / name).strip()
    assert told(handmade / name).keys() == told(handmade / "chat").keys()
    assert msgspec.json.encode(told(handmade / name))
