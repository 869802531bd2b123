"""ONNX's operators for translations: `op.Add(a, b)` adds a node to the graph being translated.

Untyped on purpose: onnxscript's types are those of eager tensors, and a translation handles graph values.
"""

from typing import Any

from onnxscript import opset23

op: Any = opset23
