"""The command `edgepeft-export`, outside of the package: a device has the command, and not the libraries it takes."""

import sys

from edgepeft_command import quiet_ends


def main() -> None:
    """Runs the command, or says what is missing for it."""
    try:
        with quiet_ends():
            from edgepeft_export.cli import main as command  # noqa: PLC0415 - the import is what may fail
    except ModuleNotFoundError as error:
        sys.exit(
            f"Error: edgepeft-export needs {error.name}, which is not installed. It is for the workstation: "
            "pip install 'edgepeft[export]'."
        )
    command()


if __name__ == "__main__":
    main()
