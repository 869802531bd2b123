"""The command `edgepeft`: exit code 0 for success, 1 for a failure, 2 for wrong use."""

import click

from edgepeft.cli import adapter, bench, chat, commands, completion, doctor, generate, info, predict
from edgepeft.cli.group import Group


@click.group("edgepeft", cls=Group)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="edgepeft")
def main(*, debug: bool) -> None:
    """Adapts a pretrained model on the device that runs it."""
    del debug  # Group reads it


for command in (
    info.info,
    doctor.doctor,
    bench.bench,
    commands.train,
    commands.evaluate,
    predict.predict,
    generate.generate,
    chat.chat,
    adapter.adapter,
    completion.completion,
):
    main.add_command(command)
