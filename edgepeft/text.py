"""Text in and out of a language model: the bundle's tokenizer and chat template, without transformers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgepeft import names
from edgepeft.bundle import Bundle
from edgepeft.errors import BundleError, DataError, EdgepeftError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Message = Mapping[str, str]


class Text:
    """The tokenizer of a bundle.

    Attributes:
        info: Special tokens and the longest sequence that the model knows.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.text is None:
            raise BundleError(
                f"{bundle.path}: was exported without a tokenizer. Give arrays instead of text."
            )
        self.info = bundle.manifest.text
        self._tokenizer = _tokenizer(bundle.asset(names.TOKENIZER).decode())
        self._template = None
        if bundle.has_asset(names.CHAT_TEMPLATE):
            self._template = bundle.asset(names.CHAT_TEMPLATE).decode()

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens that the text does not name."""
        return self._ids(text, special=False)

    def encode_sequence(self, text: str, max_length: int | None = None) -> list[int]:
        """Token ids of a whole text for a classifier, with the special tokens that the tokenizer adds.

        Args:
            text: The text.
            max_length: Where the text is cut so that it and the special tokens are no more than so many.

        Raises:
            DataError: `max_length` leaves no room for the text.
        """
        if max_length is None:
            return self._ids(text, special=True)
        room = max_length - self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if room < 1:
            raise DataError(f"max_length is {max_length}: special tokens alone take that. Raise it.")
        encoding = self._encoding(text, special=False)
        encoding.truncate(room)
        ids: list[int] = self._tokenizer.post_process(encoding).ids
        return ids

    def encode_start(self, text: str) -> list[int]:
        """Token ids of a text that goes on: with the token that begins a sequence, if the tokenizer adds one."""
        begin = self._ids("", special=True)[:1]
        return (begin if begin == [self.info.bos_token_id] else []) + self.encode(text)

    def encode_prompt(self, prompt: str | Sequence[Message]) -> list[int]:
        """Token ids of a prompt, put through the model's chat template where it has one.

        Raises:
            DataError: Messages for a model without a chat template, or messages that the template refuses.
        """
        if self._template is None and isinstance(prompt, str):
            return self.encode_start(prompt)
        return self.encode(self.prompt(prompt))  # a template writes the first token itself

    @property
    def has_chat_template(self) -> bool:
        """Whether the model takes messages."""
        return self._template is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _ids(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._encoding(text, special=special).ids
        return ids

    def _encoding(self, text: str, *, special: bool) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the text is no Unicode at character {error.start}: half of a pair.") from error
        return self._tokenizer.encode(text, add_special_tokens=special)

    def prompt(self, prompt: str | Sequence[Message]) -> str:
        """A prompt as the model expects it: through its chat template where it has one, else as it is.

        Raises:
            DataError: Messages for a model without a chat template, or messages that the template refuses.
        """
        if isinstance(prompt, str) and self._template is None:
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self._template is None:
            raise DataError("the model has no chat template. Give a text instead of messages.")
        tokens = {
            f"{kind}_token": "" if token is None else str(self._tokenizer.id_to_token(token))
            for kind, token in (
                ("bos", self.info.bos_token_id),
                ("eos", next(iter(self.info.eos_token_ids), None)),
                ("pad", self.info.pad_token_id),
            )
        }
        return render(self._template, messages, add_generation_prompt=True, **tokens)


def _tokenizer(content: str) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EdgepeftError(
            "text needs the tokenizers package. Install it: pip install 'edgepeft[text]'."
        ) from error
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises Exception itself
        raise BundleError(f"{names.TOKENIZER}: not a tokenizer: {error}. Export the bundle again.") from error
    tokenizer.no_padding()  # a batch is padded to its own longest row
    tokenizer.no_truncation()  # a row that is too long is refused, not cut
    return tokenizer


def render(template: str, messages: Sequence[Message], **values: Any) -> str:
    """Renders a chat template as transformers does, in a sandbox.

    Raises:
        DataError: The template refused the messages, or is not valid.
    """
    try:
        from edgepeft import chat  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise EdgepeftError(
            "chat needs the jinja2 package. Install it: pip install 'edgepeft[text]'."
        ) from error
    return chat.render(template, messages, **values)
