"""Data: files, folders and arrays -> checked rows -> batches.

A kind of data gives records that can be read in any order (`contract.Records`); an `Encoder` makes rows of them;
a `Dataset` is both together; `rows_of_step` says which rows make which batch.
"""

from edgepeft.data.batching import rows_of_step
from edgepeft.data.collate import collate
from edgepeft.data.contract import IGNORED, Data, Encoded, Record, Records, Row
from edgepeft.data.dataset import Dataset
from edgepeft.data.sources import open_dataset

__all__ = [
    "IGNORED",
    "Data",
    "Dataset",
    "Encoded",
    "Record",
    "Records",
    "Row",
    "collate",
    "open_dataset",
    "rows_of_step",
]
