"""edgepeft: adapt a pretrained model on the device that runs it."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports onnxruntime, which reads it then
