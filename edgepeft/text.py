"""Text in and out of a language model: the bundle's tokenizer and chat template, without transformers."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

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
        self._tokenizer = _tokenizer(bytes(bundle.asset(names.TOKENIZER)).decode())
        self._template = None
        if bundle.has_asset(names.CHAT_TEMPLATE):
            self._template = bytes(bundle.asset(names.CHAT_TEMPLATE)).decode()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens that the text does not name."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_sequence(self, text: str) -> list[int]:
        """Token ids of a whole text for a classifier, with the special tokens that the tokenizer adds."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

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
            f"{kind}_token": "" if token is None else self._tokenizer.id_to_token(token)
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
        return Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises Exception itself
        raise BundleError(f"{names.TOKENIZER}: not a tokenizer: {error}. Export the bundle again.") from error


def render(template: str, messages: Sequence[Message], **values: Any) -> str:
    """Renders a chat template as transformers does, in a sandbox.

    Raises:
        DataError: The template refused the messages, or is not valid.
    """
    try:
        from jinja2 import TemplateError  # noqa: PLC0415 - an extra
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EdgepeftError(
            "chat needs the jinja2 package. Install it: pip install 'edgepeft[text]'."
        ) from error

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: dt.datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(template).render(messages=list(messages), **values)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise DataError(f"the chat template refused the messages: {error}") from error
