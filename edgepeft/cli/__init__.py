"""The command `edgepeft`: exit code 0 for success, 1 for a failure, 2 for wrong use."""

from typing import Any

import click

from edgepeft.cli.commands import evaluate, generate, info, train
from edgepeft.errors import ArgumentError, EdgepeftError


class _WrongUse(click.ClickException):
    """A setting that is out of range: wrong use, like an option that is unknown."""

    exit_code = 2


class _Group(click.Group):
    """Shows every error as one line; our own say what to do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            wrong_use = isinstance(error, ArgumentError)
            raise (_WrongUse if wrong_use else click.ClickException)(_line(error)) from error


def _line(error: Exception) -> str:
    if isinstance(error, EdgepeftError):
        return str(error)
    return f"{type(error).__name__}: {error}. Run `edgepeft --debug ...` for its traceback."


@click.group(cls=_Group)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="edgepeft")
def main(*, debug: bool) -> None:
    """Adapts a pretrained model on the device that runs it."""
    del debug  # _Group reads it


for command in (info, train, evaluate, generate):
    main.add_command(command)
