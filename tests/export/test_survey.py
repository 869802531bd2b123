"""`edgepeft-export inspect`: the numbers against the onnx package's own, and the drawing."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import edgepeft
from edgepeft_export.cli import main


@pytest.mark.parametrize("name", ["tiny-llama", "conv-net"])
def test_it_counts_what_is_there(bundles: Path, name: str) -> None:
    """Nodes, ports, weights and bytes of every graph."""
    done = CliRunner().invoke(main, ["inspect", str(bundles / name), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    bundle = edgepeft.Bundle.open(bundles / name)
    assert found["graphs"].keys() == bundle.manifest.graphs.keys()
    for graph, facts in found["graphs"].items():
        path = bundles / name / "graphs" / f"{graph}.onnx"
        proto = onnx.load(path, load_external_data=False).graph
        assert sum(facts["nodes"].values()) == len(proto.node)
        assert all(sum(n.op_type == op for n in proto.node) == count for op, count in facts["nodes"].items())
        assert list(facts["nodes"].values()) == sorted(facts["nodes"].values(), reverse=True)
        assert [port["name"] for port in facts["inputs"]] == [value.name for value in proto.input]
        assert [port["name"] for port in facts["outputs"]] == [value.name for value in proto.output]
        external = [w for w in proto.initializer if w.data_location == onnx.TensorProto.EXTERNAL]
        assert facts["weights"] == len(external)
        assert facts["weight_bytes"] == sum(
            int(entry.value) for w in external for entry in w.external_data if entry.key == "length"
        )
        assert facts["file_bytes"] == path.stat().st_size
    assert (
        sum(found["files"].values())
        == sum(path.stat().st_size for path in (bundles / name).rglob("*") if path.is_file())
        - (bundles / name / "manifest.json").stat().st_size
    )
    assert sum(found["weights"].values()) == sum(w.nbytes for w in bundle.weights.values())


def test_it_draws(bundles: Path) -> None:
    """Files, weights of all layers together, graphs, and operators with bars."""
    done = CliRunner().invoke(main, ["inspect", str(bundles / "tiny-llama")])
    assert done.exit_code == 0
    for word in (
        "base.safetensors",
        "layers.*.mlp.",
        "graphs/train.onnx",
        "Nodes of train",
        "Gemm",
        "\u2588",
    ):
        assert word in done.stdout


def test_what_is_no_bundle(tmp_path: Path) -> None:
    """One line, exit code 1."""
    done = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "manifest.json" in done.stderr
