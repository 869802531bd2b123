"""Matrix products: one `Gemm` that reads each weight as it is stored, with scale and sum inside.

A frozen weight serves forward (`x @ W.T`) and backward (`gradient @ W`). A `Transpose` of it would be folded by
a runtime into a second copy of the whole base.
"""

import onnx_ir as ir
from onnx_ir.passes import common

from edgepeft_export.passes._graph import (
    attribute,
    dims,
    new_node,
    permutation,
    producer,
    rank,
    redirect,
    same_dims,
    scalar,
    used_once,
)


class BuildGemms(ir.passes.InPlacePass):
    """Three cases, for products of two matrices.

    1. A transposed operand becomes `transA` or `transB`.
    2. A product with a constant number, before or after, becomes `alpha`.
    3. A sum with a matrix of the same shape, or a row, becomes `C`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs case by case, each over the nodes in order."""
        modified = False
        for case in (_absorb_transpose, _absorb_scaled_input, _absorb_scale, _absorb_sum):
            for node in list(model.graph):
                modified |= case(node)
            common.RemoveUnusedNodesPass()(model)  # what is dead must not count as a reader
        return ir.passes.PassResult(model, modified)


def _is_product(node: ir.Node | None) -> bool:
    if node is None or node.op_type not in ("MatMul", "Gemm") or node.domain != "":
        return False
    return rank(node.inputs[0]) == 2 and rank(node.inputs[1]) == 2


def _replace(node: ir.Node, inputs: list[ir.Value | None], **attributes: float) -> ir.Value:
    """Puts a Gemm with the node's attributes, and those given, in the node's place."""
    kept = {name: item.value for name, item in node.attributes.items()} | attributes
    result = new_node(node, "Gemm", inputs, like=node.outputs[0], **kept)
    redirect(node.outputs[0], result)
    return result


def _absorb_transpose(node: ir.Node) -> bool:
    if not _is_product(node):
        return False
    inputs, flags = list(node.inputs), {}
    for index, name in enumerate(("transA", "transB")):
        transpose = producer(inputs[index], "Transpose")
        if transpose is not None and permutation(transpose) == [1, 0]:
            inputs[index] = transpose.inputs[0]
            flags[name] = 1 - attribute(node, name, 0)
    if flags:
        _replace(node, inputs, **flags)
    return bool(flags)


def _scaled(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """`(x, number)` if `node` multiplies x by a constant number."""
    if node is None or node.op_type != "Mul":
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        number = scalar(other)
        if number is not None and value is not None and same_dims(dims(value), dims(node.outputs[0])):
            return value, number
    return None


def _absorb_scaled_input(node: ir.Node) -> bool:
    """`Gemm(x * number, W)` for a scaled value that only products read."""
    found = _scaled(node)
    if found is None or node.outputs[0].is_graph_output():
        return False
    uses = list(node.outputs[0].uses())
    if not uses or not all(_is_product(use.node) and use.idx < 2 for use in uses):
        return False
    source, number = found
    for use in uses:
        inputs = list(use.node.inputs)
        inputs[use.idx] = source
        _replace(use.node, inputs, alpha=attribute(use.node, "alpha", 1.0) * number)
    return True


def _absorb_scale(node: ir.Node) -> bool:
    """`Gemm(x, W) * number` for a product that only this reads."""
    found = _scaled(node)
    product = None if found is None else producer(found[0], "MatMul", "Gemm")
    if found is None or product is None or not _is_product(product) or not used_once(found[0]):
        return False
    if len(product.inputs) > 2:
        return False
    result = _replace(product, list(product.inputs), alpha=attribute(product, "alpha", 1.0) * found[1])
    redirect(node.outputs[0], result)
    return True


def _absorb_sum(node: ir.Node) -> bool:
    """`Gemm(x, W) + C` for a product that only this reads; of two, the later one takes the earlier."""
    if node.op_type != "Add":
        return False
    for value, other in (tuple(reversed(node.inputs)), tuple(node.inputs)):
        product = producer(value, "MatMul", "Gemm")
        if value is None or other is None or product is None or not _is_product(product):
            continue
        shape, added = dims(value), dims(other)
        fits = same_dims(added, shape) or (added is not None and same_dims(added, shape[-1:]))  # type: ignore[index]
        if len(product.inputs) == 2 and used_once(value) and fits and same_dims(dims(node.outputs[0]), shape):
            kept = {name: item.value for name, item in product.attributes.items()}
            result = new_node(node, "Gemm", [*product.inputs, other], like=node.outputs[0], **kept)
            redirect(node.outputs[0], result)
            return True
    return False
