"""Chat templates in a sandbox."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import edgepeft
from edgepeft.errors import DataError
from edgepeft.manifest import TextInfo
from edgepeft.text import Text, render

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n  {{ m.role }}={{ m.content }}\n{% endfor %}", "  user=hi\n"),
        (
            "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
            "hi",
        ),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 2 %}{{ ns.n }}{{ bos_token }}", "2<s>"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_templates_render(template: str, text: str) -> None:
    """Trimmed blocks, loop controls, tojson, namespaces and the clock, as transformers has them."""
    assert render(template, MESSAGES, bos_token="<s>") == text  # noqa: S106


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{% for %}", "refused the messages"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "refused the messages"),
        ("{{ range(10**9) | list }}", "refused the messages"),
    ],
)
def test_templates_that_are_refused(template: str, words: str) -> None:
    """A template's own error, a broken one, and those that reach for Python or run away."""
    with pytest.raises(DataError, match=words):
        render(template, MESSAGES)


def test_special_tokens_in_a_prompt_are_one_token_each(bundles: Path) -> None:
    """The template's <bos> and <eos> are the model's, and decoding leaves them out."""
    text = edgepeft.load(bundles / "tiny-llama").text
    assert text is not None
    ids = text.encode(text.prompt("hi"))
    assert ids[0] == 1
    assert ids.count(1) == 2
    assert text.decode(ids) == "user: hi\nassistant: "


def test_messages_need_a_template(bundles: Path) -> None:
    """A model without a chat template takes text only."""
    text = edgepeft.load(bundles / "tiny-bert").text
    assert text is not None
    assert text.prompt("plain") == "plain"
    with pytest.raises(DataError, match="no chat template"):
        text.prompt(MESSAGES)


@pytest.mark.parametrize(("bos", "start"), [(1, [1]), (None, []), (2, [])])
def test_a_text_begins_as_the_tokenizer_begins_it(bos: int | None, start: list[int]) -> None:
    """The first token that the tokenizer adds stays where it is the model's <bos>; what it adds at the end does not."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<bos>": 1, "<eos>": 2, "a": 3}, unk_token="<unk>"))  # noqa: S106
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    info = TextInfo(bos_token_id=bos, eos_token_ids=[2], pad_token_id=0, max_length=8)
    bundle = SimpleNamespace(
        manifest=SimpleNamespace(text=info), asset=lambda _: made.to_str().encode(), has_asset=lambda _: False
    )
    text = Text(bundle)
    assert text.encode_prompt("a") == text.encode_start("a") == [*start, 3]
    assert text.encode("a") == [3]
    assert text.encode_sequence("a") == [1, 3, 2]


def test_a_tokenizer_that_pads_and_cuts_by_itself() -> None:
    """As many sentence models ship it: a text keeps its own length, however it was packed."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding(length=6)
    made.enable_truncation(max_length=4)
    info = TextInfo(bos_token_id=None, eos_token_ids=[], pad_token_id=0, max_length=8)
    bundle = SimpleNamespace(
        manifest=SimpleNamespace(text=info), asset=lambda _: made.to_str().encode(), has_asset=lambda _: False
    )
    text = Text(bundle)
    assert text.encode_sequence("a a") == [1, 1]
    assert text.encode("a a a a a") == [1] * 5
