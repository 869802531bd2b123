"""A group of commands whose errors are one line each: exit code 1 for a failure, 2 for wrong use."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from edgepeft.errors import ArgumentError, EdgepeftError


class _WrongUse(click.ClickException):
    """A setting that is out of range, or an option that is unknown."""

    exit_code = 2


class Group(click.Group):
    """Shows every error as one line; our own say what to do, others how to see the traceback.

    The outermost group of a program has the option `--debug`, under which errors keep their traceback.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the group's own options."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was named."""
        root = ctx.find_root()
        with _one_line():
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except Exception as error:
                if root.params["debug"]:
                    raise
                wrong_use = isinstance(error, ArgumentError)
                command = self.get_command(ctx, str(ctx.invoked_subcommand))
                line = _with_options(_line(error, str(root.info_name)), command)
                raise (_WrongUse if wrong_use else click.ClickException)(line) from error


@contextmanager
def _one_line() -> Iterator[None]:
    """Click tells wrong use in three lines; the third and where to read on are enough."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        told = " ".join(error.format_message().split())
        end = "" if told.endswith((".", "?")) else "."
        path = error.ctx.command_path if error.ctx is not None else ""
        raise _WrongUse(f"{told}{end} See `{path} --help`.") from error


def _line(error: Exception, program: str) -> str:
    notes = getattr(error, "__notes__", [])
    if isinstance(error, EdgepeftError):
        return _clean(" ".join([str(error), *notes]))
    hint = f"Run `{program} --debug ...` for its traceback."
    return " ".join([_clean(f"{type(error).__name__}: {error}") + ".", *map(_clean, notes), hint])


def _with_options(line: str, command: click.Command | None) -> str:
    """Settings by the names of the command's options: who types --max-length did not write `max_length`."""
    options = {
        name: each.opts[0]
        for each in (command.params if command is not None else [])
        if isinstance(each, click.Option)
        for name in (str(each.name), f"{each.name}=True")
    }
    # A name of one word is a setting's where a message begins with it or a checkpoint's has it: elsewhere it is a word.
    return re.sub(
        r"^[a-z]+(?= (?:is|and) .*; expected)|(?<=: was made with )[a-z]+(?==)"
        r"|(?<![\w./-])(?:[a-z]+=True(?!\w)|[a-z]+_[a-z_]+(?![\w./-]*[\w/]))",
        lambda found: options.get(found[0], found[0]),
        line,
    )


def _clean(text: str) -> str:
    """One line that does nothing to a terminal, whatever a foreign file put into it."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
