"""`edgepeft completion`: what makes a shell complete commands, options and paths."""

import click
from click.shell_completion import get_completion_class

#: The program as a user types it, and the variable by which its script asks it for completions.
_PROGRAM = "edgepeft"
_VARIABLE = "_EDGEPEFT_COMPLETE"


@click.command(epilog='\b\nExample:\n  eval "$(edgepeft completion bash)"   # in ~/.bashrc')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Prints the script that makes SHELL complete what you type after edgepeft."""
    maker = get_completion_class(shell)
    assert maker is not None
    click.echo(maker(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
