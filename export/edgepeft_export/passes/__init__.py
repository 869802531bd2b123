"""Stage passes: the lowered graph -> the graphs a bundle carries. One pass a file, in the order of `PASSES`."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from edgepeft_export.errors import ExportError
from edgepeft_export.passes.flatten_rows import FlattenRows
from edgepeft_export.passes.gemm import BuildGemms
from edgepeft_export.passes.reshapes import ConstantTargets, MergeReshapes
from edgepeft_export.passes.tidy import DropNeutral
from edgepeft_export.passes.transposes import MergeTransposes

#: Constants up to this many elements are merged when equal; weights are not compared.
MAX_CONSTANT = 16

#: Ours, and those of onnx-ir and onnxscript around them. A later pass relies on the earlier ones.
PASSES: tuple[ir.passes.InPlacePass, ...] = (
    common.IdentityEliminationPass(),
    FoldConstantsPass(
        shape_inference=True,
        input_size_limit=MAX_CONSTANT,
        output_size_limit=MAX_CONSTANT,
        should_fold=lambda node: False if node.op_type == "Transpose" else None,  # a second copy of a weight
    ),
    common.CommonSubexpressionEliminationPass(),
    MergeTransposes(),
    DropNeutral(),
    MergeReshapes(),
    common.RemoveUnusedNodesPass(),
    FlattenRows(),
    MergeReshapes(),
    ConstantTargets(),
    common.RemoveUnusedNodesPass(),
    BuildGemms(),
    common.RemoveUnusedNodesPass(),
    common.CommonSubexpressionEliminationPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateInitializersPass(size_limit=MAX_CONSTANT),
    common.RemoveUnusedNodesPass(),
)


def run(model: ir.Model, passes: Sequence[ir.passes.InPlacePass] = PASSES) -> None:
    """Runs the passes over `model` in place.

    Raises:
        ExportError: A pass failed; the message names it and what ran before.
    """
    done: list[str] = []
    for each in passes:
        try:
            each(model)
        except Exception as error:
            name = type(each).__name__
            raise ExportError(
                "passes", f"{name} failed after {', '.join(done) or 'nothing'}: {error}"
            ) from error
        done.append(type(each).__name__)
