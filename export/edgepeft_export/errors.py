"""Errors of the exporter: one class, which names the stage that failed."""

from collections.abc import Callable
from functools import partial

from edgepeft.errors import EdgepeftError


class ExportError(EdgepeftError):
    """A stage of the export failed.

    Attributes:
        stage: The stage's name: attach, trace, lower, passes, decode, pack, verify or ort-training.
        reason: The message without the stage.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage
        self.reason = message

    @classmethod
    def at(cls, stage: str) -> Callable[[str], "ExportError"]:
        """A constructor for errors of one stage."""
        return partial(cls, stage)
