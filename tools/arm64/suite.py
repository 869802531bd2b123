"""Runs the device's tests on emulated processors: those of a Raspberry Pi 4 and of a Raspberry Pi 5.

The environment is made first, see environment.py; the small bundles must be there, see tools/make_test_bundles.py.
How long anything takes there says nothing about a board.

Usage: python tools/arm64/suite.py BUNDLES BOARD
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import environment

CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
_CUT = "tests/device/test_resuming.py::test_a_run_cut_at_any_step_ends_as_one_that_was_not"
#: What runs there, a few minutes on each processor: a name that no longer exists fails the run.
TESTS = (
    # The import, and opening bundles.
    "tests/arm64/test_environment.py",
    "tests/device/test_bundle.py",
    # Prediction, hot swap, generation, adapters by name.
    "tests/device/test_model.py",
    "tests/device/test_adapter.py",
    "tests/device/test_adapters.py::test_adapters_are_used_by_name",
    "tests/device/test_adapters.py::test_every_call_takes_an_adapter",
    "tests/device/test_adapters.py::test_an_answer_that_streams_keeps_its_adapter",
    "tests/device/test_prediction.py",
    # Gradients and training: PyTorch's values, and AdamW's formula.
    "tests/device/test_reference.py",
    "tests/device/test_stock.py",
    # Checkpoints: a run that is cut ends bit for bit as one that is not.
    "tests/device/test_checkpoint.py",
    f"{_CUT}[adamw-7]",
    f"{_CUT}[sgd-13]",
    "tests/device/test_resuming.py::test_a_callback_stops_the_run",
    "tests/device/test_resuming.py::test_a_full_disk_keeps_the_checkpoint_before",
    "tests/device/test_resuming.py::test_a_run_resumes_only_as_itself",
    # The command line, as a program of its own and within this one.
    "tests/device/test_cli.py::test_train_evaluate_generate",
    "tests/device/test_cli.py::test_a_cut_run_resumes",
    "tests/device/test_cli_errors.py",
    # A guest on a small board: what the board tells, and pauses that change nothing.
    "tests/device/test_board.py",
    "tests/device/test_cli_doctor.py",
    "tests/device/test_guest.py::test_a_run_pauses_within_a_step_and_ends_as_if_nothing_had_been",
    # Bad input.
    "tests/attacks/test_bundles.py",
    "tests/device/test_tensors.py::test_what_is_written_is_read_bit_for_bit",
)
#: Run on this machine, and start the other Python for its part.
ACROSS = "tests/arm64/test_across.py"
#: What runs on the boards, from its folder.
SAMPLE = "tests/arm64/test_raspberry_pi.py"


#: Seconds that the tests of one run may take: several times what they do take.
PATIENCE = 1200


def run(python: Path, tests: tuple[str, ...], variables: dict[str, str]) -> bool:
    """Whether the tests pass under a Python, in the time that they may take."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests", "--hypothesis-profile=ci"]
    command = [str(python), "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command, check=False, cwd=environment.REPOSITORY, env=os.environ | variables, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        print(f"== the tests did not end within {PATIENCE / 60:g} minutes: ended", flush=True)
        return False
    return done.returncode == 0


def main() -> int:
    """Makes the environment, runs all tests on each processor; 1 if any fails."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\nUsage")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, help="folder of the small bundles")
    parser.add_argument("board", type=Path, help="what samples/raspberry_pi/workstation.py wrote")
    options = parser.parse_args()
    made = environment.Environment(environment.FOLDER)
    made.make()
    passed = True
    for cpu, board in CPUS.items():
        variables = {
            "EDGEPEFT_ARM64_PYTHON": str(made.python),
            "EDGEPEFT_TEST_BUNDLES": str(options.bundles.absolute()),
            "EDGEPEFT_BOARD": str(options.board.absolute()),
            "QEMU_CPU": cpu,
        }
        began = time.monotonic()
        print(f"== tests on an emulated {cpu} ({board})", flush=True)
        passed &= run(made.python, TESTS, variables | environment.INSTALLED)
        print(f"== {cpu} and this machine: the same values, each other's checkpoints", flush=True)
        passed &= run(Path(sys.executable), (ACROSS, SAMPLE), variables)
        print(f"== {cpu}: {time.monotonic() - began:.0f} s", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
