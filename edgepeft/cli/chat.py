"""`edgepeft chat`: a conversation with the language model of a bundle."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from edgepeft.adapter import Adapter
from edgepeft.cli.generate import sampling_options, show
from edgepeft.cli.shared import adapter_option, bundle_argument, check_is_language_model, threads_option
from edgepeft.errors import AdapterError, ArgumentError, DataError
from edgepeft.model import Model, load

Messages = list[dict[str, str]]

_END = "/quit or Ctrl-D ends"
_HELP = (
    "/adapter FOLDER swaps the adapter, /adapter alone takes the bundle's own, /reset forgets what was said, "
    f"{_END}."
)


@click.command(epilog="\b\nExample:\n  edgepeft chat bundle/ --adapter alice/")
@bundle_argument
@adapter_option
@sampling_options(max_new_tokens=256)
@threads_option
def chat(*, bundle: Path, adapter: Path | None, threads: int | None, **sampling: Any) -> None:
    """Talks with the language model of BUNDLE, line by line.

    /adapter FOLDER swaps the adapter, /adapter alone takes the bundle's own, /reset forgets what was said, /quit or
    Ctrl-D ends. Ctrl-C stops an answer, or drops a line. In a pipe, a line that is refused is told, and gives exit
    code 1 in the end.
    """
    model = load(bundle, adapter, threads=threads)
    if not check_is_language_model(model).has_chat_template:
        raise ArgumentError(f"{bundle}: its model has no chat template; use generate.")
    conversation = Conversation(model, sampling)
    conversation.check()
    if sys.stdin.isatty():
        click.echo(_HELP, err=True)
    for line in lines():
        if line.startswith("/"):
            command, _, rest = line.partition(" ")
            if command == "/quit":
                break
            act(conversation, command, rest.strip())
        elif line.strip():
            conversation.say(line.strip())
    if conversation.refused and not sys.stdin.isatty():
        raise click.exceptions.Exit(1)


def lines() -> Iterator[str]:
    """What the user types, or what a pipe holds, without the ends of lines."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    import readline  # noqa: F401, PLC0415 - gives input() its keys; starting it prints to a pipe

    while True:
        try:
            yield input("> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:  # drops the line, as in a shell: it may be a second one, to stop an answer
            click.echo(f"\n({_END})", err=True)


class Conversation:
    """What has been said so far, as far as the model's length allows.

    Attributes:
        model: The model.
        messages: Each with "role" and "content", the user's and the assistant's in turn.
        refused: How many lines were.
    """

    def __init__(self, model: Model, sampling: Mapping[str, Any]) -> None:
        self.model = model
        self.messages: Messages = []
        self.refused = 0
        self._sampling = sampling

    def check(self) -> None:
        """Refuses settings that are out of range before the user has typed anything."""
        self.model.stream([{"role": "user", "content": "?"}], **self._sampling)

    def say(self, text: str) -> None:
        """Answers; what cannot be answered is told, and not remembered, nor what was answered with nothing."""
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            kept = self._fitting(asked)
            pieces = self.model.stream(kept, **self._sampling)
        except DataError as error:
            self.refuse(str(error))
            return
        if len(kept) < len(asked):
            click.echo(
                f"({len(asked) - len(kept)} earlier messages are left out: the model has room for {self._length} "
                "tokens)",
                err=True,
            )
        said: list[str] = []
        try:
            show(_noted(pieces, said))
        except KeyboardInterrupt:
            click.echo()
        if said:
            self.messages = [*kept, {"role": "assistant", "content": "".join(said)}]

    def refuse(self, why: str) -> None:
        """Tells why a line is passed over."""
        self.refused += 1
        click.echo(f"Error: {why}", err=True)

    @property
    def _length(self) -> int:
        """How many tokens the model has places for."""
        assert self.model.text is not None
        return self.model.text.info.max_length

    def _fitting(self, messages: Messages) -> Messages:
        text = self.model.text
        assert text is not None
        room = max(self._length - self._sampling["max_new_tokens"], self._length // 2)
        return fitting(messages, lambda some: len(text.encode_prompt(some)), room)


def fitting(messages: Messages, tokens: Callable[[Messages], int], room: int) -> Messages:
    """The messages without the oldest questions and answers, so that the rest fits.

    Args:
        messages: The user's and the assistant's in turn; the last one is the user's, and always stays.
        tokens: How many tokens some of them take.
        room: How many there may be.
    """
    while len(messages) > 1 and tokens(messages) > room:
        messages = messages[2:]
    return messages


def _noted(pieces: Iterable[str], said: list[str]) -> Iterator[str]:
    """The pieces as they come, each put into a list too."""
    for piece in pieces:
        said.append(piece)
        yield piece


def act(conversation: Conversation, command: str, rest: str) -> None:
    """Does what a line that begins with a slash asks for; an adapter that is refused leaves the old one in use."""
    if command == "/reset":
        conversation.messages = []
        click.echo("(forgotten)", err=True)
    elif command == "/adapter":
        try:
            conversation.model.use(
                Adapter.load(Path(rest).expanduser()) if rest else conversation.model.bundle.initial_adapter()
            )
        except (AdapterError, RuntimeError) as error:  # the latter: ~ of somebody who is not known here
            conversation.refuse(str(error))
        else:
            click.echo(f"(adapter {rest or 'of the bundle'})", err=True)
    else:
        conversation.refuse(f"no command {command!r}. {_HELP}")
