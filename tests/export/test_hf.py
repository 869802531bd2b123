"""Hugging Face folders and the exporter's command line, on a tiny model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_models import CHAT_TEMPLATE, byte_tokenizer, save_tiny_folder, tiny_llama

import edgepeft
from edgepeft import names
from edgepeft.text import render
from edgepeft_export.cli import main
from edgepeft_export.hf import gguf_parsed_once, tokenizer_assets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as save_pretrained writes it."""
    path = tmp_path_factory.mktemp("hf") / "SmolLM2-135M-Instruct"
    save_tiny_folder(path)
    return path


def test_a_gguf_file_is_parsed_once(tmp_path: Path) -> None:
    """The library parses it three times; afterwards it is as it was."""
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    before = gguf.GGUFReader
    with gguf_parsed_once():
        first = gguf.GGUFReader(path)
        assert first is gguf.GGUFReader(path)
        assert first.fields["general.architecture"].contents() == "llama"
        llama = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(llama, 2) is gguf.get_tensor_name_map(llama, 2)
    assert gguf.GGUFReader is before


def test_padding_and_truncation_of_the_tokenizer_stay_behind(folder: Path, tmp_path: Path) -> None:
    """Sentence models ship a tokenizer that pads each text to a fixed length: a device pads batches, not texts."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    fixed = tmp_path / "fixed"
    shutil.copytree(folder, fixed)
    backend = Tokenizer.from_file(str(fixed / "tokenizer.json"))
    backend.enable_padding(length=16)
    backend.enable_truncation(max_length=8)
    backend.save(str(fixed / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(fixed)
    before = tokenizer.backend_tokenizer.to_str()
    written = Tokenizer.from_str(tokenizer_assets(tokenizer)[names.TOKENIZER].decode())
    assert tokenizer.backend_tokenizer.to_str() == before, "the caller's own tokenizer is left as it was"
    assert written.encode("spare").ids == Tokenizer.from_str(byte_tokenizer().decode()).encode("spare").ids
    assert len(written.encode("the spare key").ids) == 13


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from edgepeft_export.cli import main; main(prog_name='edgepeft-export')"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_export_and_verify_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    """A folder becomes a bundle; verify compares it again, and goes red for another model."""
    done = command("hf", folder, tmp_path / "bundle", "--rank", 4, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(row["error"] <= row["limit"] for row in told["verify"])
    assert "trace (2/6)" in done.stderr
    text = edgepeft.Bundle.open(tmp_path / "bundle").manifest.text
    assert text is not None
    assert (text.bos_token_id, text.eos_token_ids, text.pad_token_id, text.max_length) == (1, [2], 0, 128)
    again = command("verify", tmp_path / "bundle", "--hf", folder)
    assert again.returncode == 0, again.stderr
    assert "loss over 20 AdamW steps" in again.stdout
    other = tmp_path / "other"
    model = tiny_llama()
    model.model.norm.weight.data.mul_(1.5)
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (other / name).write_bytes((folder / name).read_bytes())
    refused = command("verify", tmp_path / "bundle", "--hf", other)
    assert refused.returncode == 1
    assert "differs from PyTorch" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["hf", "{tmp}", "{tmp}/out"], 1, "transformers cannot load"),
        (["hf", "{folder}", "{folder}"], 1, "exists"),
        (["verify", "{tmp}"], 2, "--hf FOLDER or --torch FACTORY"),
        (["torch", "none:make", "{tmp}/out"], 1, "cannot find none:make"),
        (["torch", "none", "{tmp}/out"], 2, "expected module:function"),
        (["torch", "{tmp}/f.py:empty", "{tmp}/out"], 1, "empty gave nothing; expected a mapping with model,"),
        (["torch", "{tmp}/f.py:none", "{tmp}/out"], 1, "none gave NoneType; expected a mapping with model,"),
        (
            ["torch", "{tmp}/f.py:part", "{tmp}/out"],
            1,
            "part gave model, loss; expected a mapping with model,",
        ),
        (["torch", "{tmp}/f.py:more", "{tmp}/out"], 1, "more gave 'epochs', which"),
        (["torch", "{tmp}/f.py:fails", "{tmp}/out"], 1, "ZeroDivisionError: division by zero. Run"),
        (["verify", "{handmade}/regression", "--torch", "{tmp}/f.py:none"], 1, "none gave NoneType"),
        (["verify", "{handmade}/regression", "--hf", "{folder}"], 2, "(generic): give --torch FACTORY"),
    ],
)
def test_command_line_errors(
    folder: Path, handmade: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    """One line, exit code 1 for a failure and 2 for wrong use."""
    (tmp_path / "f.py").write_text(
        "def empty(): return {}\n"
        "def none(): pass\n"
        "def part(): return {'model': 1, 'loss': 2}\n"
        "def more(): return dict.fromkeys(['model', 'example_inputs', 'loss', 'adapter', 'epochs'])\n"
        "def fails(): return 1 / 0\n"
    )
    given = [argument.format(tmp=tmp_path, folder=folder, handmade=handmade) for argument in arguments]
    done = CliRunner().invoke(main, given, prog_name="edgepeft-export")
    assert done.exit_code == code
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_a_factory_of_ones_own(tmp_path: Path) -> None:
    """module:function gives the arguments of export; here from a file."""
    (tmp_path / "net.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from small_models import RECIPES\n"
        "make = RECIPES['conv-net']\n"
    )
    done = command("torch", f"{tmp_path}/net.py:make", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    again = command("verify", tmp_path / "bundle", "--torch", f"{tmp_path}/net.py:make", "--json")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("generation", [False, True])
def test_chat_templates_render_as_in_transformers(folder: Path, *, generation: bool) -> None:
    """The same text from the sandbox of the device and from transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = (
        "{%- if messages[0]['role'] == 'system' %}\n  {{- bos_token + messages[0]['content'] }}\n{%- endif %}\n"
        "{%- for message in messages %}\n    {%- if loop.index0 % 2 %}\n{{ message | tojson }}\n    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<answer>' }}\n{%- endif %}"
    )
    messages = [
        {"role": "system", "content": "Sei freundlich."},
        {"role": "user", "content": "Wo ist der Schlüssel? <&>"},
        {"role": "assistant", "content": "Dort."},
        {"role": "user", "content": "Danke"},
    ]
    for each in (CHAT_TEMPLATE, template):
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=each, add_generation_prompt=generation, tokenize=False
        )
        ours = render(each, messages, add_generation_prompt=generation, bos_token="<bos>", eos_token="<eos>")  # noqa: S106
        assert ours == theirs
