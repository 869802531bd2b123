"""Text for a classifier is cut as transformers cuts it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_models import byte_tokenizer

from edgepeft.manifest import TextInfo
from edgepeft.text import Text


@pytest.mark.parametrize("length", [3, 4, 10, 11, 12, 13, 100])
def test_a_cut_text_has_the_same_tokens(tmp_path: Path, length: int) -> None:
    """With the special tokens at both ends, below, at and above the text's own length."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_str(byte_tokenizer().decode())
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    info = TextInfo(bos_token_id=1, eos_token_ids=[2], pad_token_id=0, max_length=100)
    ours = Text(
        SimpleNamespace(
            manifest=SimpleNamespace(text=info),
            asset=lambda _: made.to_str().encode(),
            has_asset=lambda _: False,
        )
    )
    text = "hello é 12"  # 11 bytes
    expected = theirs(text, truncation=True, max_length=length)["input_ids"]
    assert ours.encode_sequence(text, length) == expected
