"""Limits on what a foreign file may ask for, and on what data may take in memory, in one place."""

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

#: Largest token id: ids are int64 in the graphs, and int32 in some tokenizers.
MAX_TOKEN_ID = (1 << 31) - 1

#: Characters of a tensor's name.
MAX_NAME_LENGTH = 512

#: Largest magnitude of an adapter's number: beyond it a model only gives noise or infinities.
MAX_ADAPTER_MAGNITUDE = 1e6

#: Characters of a class's name.
MAX_LABEL_LENGTH = 256

#: Bytes of one line of a data file.
MAX_LINE_BYTES = 16 * MiB

#: Data up to here is read, encoded and checked whole before training, and then held: bytes of its file, and bytes
#: of its rows with what each costs besides its numbers. Larger data streams.
MAX_HELD_FILE_BYTES = 8 * MiB
MAX_HELD_BYTES = 128 * MiB
HELD_ROW_BYTES = 512

#: Places of a data file that are remembered; what lies between two of them is found by reading.
MAX_INDEX_ENTRIES = 1 << 16

#: Rows whose order is drawn at once; that of more is computed place by place.
MAX_DRAWN_ROWS = 1 << 20

#: Files in a folder of images; bytes and pixels of one of them.
MAX_FOLDER_FILES = 1 << 20
MAX_IMAGE_BYTES = 64 * MiB
MAX_IMAGE_PIXELS = 1 << 26

#: Height and width of the images that a model takes.
MAX_IMAGE_SIDE = 1 << 12

#: Bytes of one row of an array in a file.
MAX_ROW_BYTES = 256 * MiB

#: Rows that are sorted by length at once.
MAX_WINDOW_ROWS = 4096

#: New tokens that one call may generate.
MAX_NEW_TOKENS = 1 << 16

#: Threads that one call may compute with: ONNX Runtime starts them all, and ends the process if it cannot.
MAX_THREADS = 256
