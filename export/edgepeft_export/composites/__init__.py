"""Composite operators: parts of a model that have a short forward and a short backward of their own.

PyTorch differentiates what it traces, operator by operator; the gradient of a rotary embedding or of a norm
written out in `pow`, `mean` and `slice` is then dozens of nodes. Each module here names one such part: the
operator with its gradient (`torch.library`), a `fuse` that finds it in a traced forward graph *before*
differentiation, and the translation of both directions to ONNX.

To add one, write such a module and add it to `COMPOSITES`; nothing else knows them.
"""

from types import ModuleType

from edgepeft_export.composites import attention, cross_entropy, linear_cross_entropy, rms_norm, rotary, silu

#: In the order in which they are tried.
COMPOSITES: tuple[ModuleType, ...] = (rms_norm, rotary, silu, attention, linear_cross_entropy, cross_entropy)
