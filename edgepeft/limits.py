"""Limits on what a foreign file may ask for, in one place."""

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

#: Bytes of a bundle's manifest, and of an adapter's configuration.
MAX_MANIFEST_BYTES = 16 * MiB
MAX_CONFIG_BYTES = 1 * MiB

#: Bytes of an adapter or checkpoint file, header included.
MAX_ADAPTER_BYTES = 2 * GiB
MAX_CHECKPOINT_BYTES = 8 * GiB

#: Bytes of any other file of a bundle.
MAX_BUNDLE_FILE_BYTES = 64 * GiB

#: Bytes of a safetensors header, tensors in it, axes of a tensor, elements along one, and bytes of its metadata.
MAX_HEADER_BYTES = 8 * MiB
MAX_TENSORS = 20_000
MAX_AXES = 8
MAX_AXIS_LENGTH = 1 << 31
MAX_METADATA_BYTES = 512 * KiB

#: Characters of a tensor's name.
MAX_NAME_LENGTH = 512

#: Largest magnitude of an adapter's number: beyond it a model only gives noise or infinities.
MAX_ADAPTER_MAGNITUDE = 1e6

#: Bytes of one line of a data file.
MAX_LINE_BYTES = 16 * MiB

#: New tokens that one call may generate.
MAX_NEW_TOKENS = 1 << 16
