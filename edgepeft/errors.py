"""Everything edgepeft raises on purpose.

    EdgepeftError
    +-- BundleError        a bundle is missing something, was altered, or is of another version
    +-- AdapterError       an adapter file is malformed, or not made for this bundle
    +-- DataError          a row of data is unusable; says which
    +-- ArgumentError      a setting is out of range or unknown (also a ValueError)
    +-- TrainingError      a step failed
    |   +-- NonFiniteLossError
    +-- MemoryLimitError   a training would take more memory than it may
    +-- CheckpointError    a checkpoint is malformed, or of another run
    +-- StorageError       the disk is full, read-only or otherwise refused a write
    +-- EngineError        ONNX Runtime refused a graph or a batch

A message says what was expected, what was got, where, and what to do next.
"""


class EdgepeftError(Exception):
    """Base of all errors that edgepeft raises on purpose."""


class BundleError(EdgepeftError):
    """A bundle is missing something, was altered, or is of another version."""


class AdapterError(EdgepeftError):
    """An adapter is malformed, or not made for this bundle."""


class DataError(EdgepeftError):
    """A row of data is unusable."""


class ArgumentError(EdgepeftError, ValueError):
    """A setting is out of range or unknown."""


class TrainingError(EdgepeftError):
    """A training step failed; the adapter is as it was before the step."""


class NonFiniteLossError(TrainingError):
    """The loss or the gradient's norm became NaN or infinite."""


class MemoryLimitError(EdgepeftError):
    """A training would take more memory than it may; it was not begun."""


class CheckpointError(EdgepeftError):
    """A checkpoint is malformed, or belongs to another run."""


class StorageError(EdgepeftError):
    """The file system refused a write; what was there before is untouched."""


class EngineError(EdgepeftError):
    """ONNX Runtime refused a graph or a batch."""
