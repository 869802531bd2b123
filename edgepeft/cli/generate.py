"""`edgepeft generate`, and how an answer is chosen and shown."""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from edgepeft.cli.shared import (
    adapter_option,
    bundle_argument,
    check_is_language_model,
    json_option,
    print_json,
    threads_option,
)
from edgepeft.model import load

#: Characters that steer a terminal, line breaks and tabs excepted.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def sampling_options(max_new_tokens: int) -> Callable[[Any], Any]:
    """The options that `Model.stream` has, by its names.

    Args:
        max_new_tokens: The default of that option.
    """
    options = (
        click.option(
            "--max-new-tokens",
            type=int,
            default=max_new_tokens,
            show_default=True,
            help="Most tokens to add.",
        ),
        click.option(
            "--temperature", type=float, default=0.0, show_default=True, help="0 takes the best token always."
        ),
        click.option("--top-k", type=int, help="Draw among so many best tokens only."),
        click.option("--top-p", type=float, help="Draw among the best tokens of this probability only."),
        click.option(
            "--repetition-penalty",
            type=float,
            default=1.0,
            show_default=True,
            help="More than 1 makes tokens that were there before less likely.",
        ),
        click.option("--stop", multiple=True, help="Text that ends the answer; may be given several times."),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws."),
    )

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command(
    epilog="\b\nExample:\n  edgepeft generate bundle/ --adapter alice/ --prompt 'Where is the spare key?'"
)
@bundle_argument
@click.option("--prompt", required=True, help="What the user says.")
@adapter_option
@sampling_options(max_new_tokens=64)
@click.option(
    "--stream/--no-stream", default=None, help="Print tokens as they come; by default on a terminal."
)
@threads_option
@json_option
def generate(
    *,
    bundle: Path,
    prompt: str,
    adapter: Path | None,
    stream: bool | None,
    threads: int | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answers a prompt with the language model of BUNDLE."""
    if stream and as_json:
        raise click.UsageError("--stream and --json exclude each other: JSON is printed once, at the end.")
    model = load(bundle, adapter, threads=threads)
    check_is_language_model(model)
    pieces = model.stream(prompt, **sampling)
    if as_json:
        print_json({"prompt": prompt, "text": "".join(pieces)})
    else:
        streams = sys.stdout.isatty() if stream is None else stream
        show(pieces if streams else ["".join(pieces)])


def show(pieces: Iterable[str]) -> None:
    """Prints an answer as it comes; what a model says cannot steer the terminal."""
    for piece in pieces:
        click.echo(_CONTROLS.sub("?", piece), nl=False)
    click.echo()
