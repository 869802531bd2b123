"""edgepeft: adapt a pretrained model on the device that runs it.

model = edgepeft.load("bundle/")
result = edgepeft.Trainer(model, edgepeft.TrainingArguments(epochs=3)).fit("facts.jsonl")
result.adapter.save("alice/")
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports onnxruntime, which reads it then

from edgepeft.adapter import Adapter
from edgepeft.arguments import TrainingArguments
from edgepeft.bundle import Bundle
from edgepeft.engines.base import StepResult
from edgepeft.errors import EdgepeftError
from edgepeft.log import JsonLinesLog
from edgepeft.model import Model, load
from edgepeft.prediction import Classification, Regression
from edgepeft.report import HtmlReport
from edgepeft.training import Callback, Trainer, TrainingResult

__all__ = [
    "Adapter",
    "Bundle",
    "Callback",
    "Classification",
    "EdgepeftError",
    "HtmlReport",
    "JsonLinesLog",
    "Model",
    "Regression",
    "StepResult",
    "Trainer",
    "TrainingArguments",
    "TrainingResult",
    "load",
]
