"""Small helpers to read and edit a traced forward graph."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

#: Operators that give their first argument back when nothing about it changes.
_IDENTITIES = (
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.alias.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten._to_copy.default,
)


def is_call(value: object, *targets: object) -> bool:
    """Tells whether `value` is a node that calls one of `targets`."""
    return isinstance(value, Node) and value.op == "call_function" and value.target in targets


def shape(node: Node) -> tuple[Any, ...]:
    """The traced shape of a node's value; symbolic dimensions are `torch.SymInt`."""
    return tuple(node.meta["val"].shape)


def dtype(node: Node) -> torch.dtype:
    """The traced element type of a node's value."""
    result: torch.dtype = node.meta["val"].dtype
    return result


def calls(module: GraphModule, *targets: object) -> Iterator[Node]:
    """All nodes that call one of `targets`, in graph order; the graph may be edited meanwhile."""
    return (node for node in list(module.graph.nodes) if is_call(node, *targets))


def insert(module: GraphModule, target: Any, *args: Any, **kwargs: Any) -> Node:
    """Adds a call at the graph's insertion point, with the value that it has under fake tensors."""
    node = module.graph.call_function(target, args, kwargs)
    values = torch.fx.map_arg((args, kwargs), lambda n: n.meta["val"])
    mode = next(v.fake_mode for v in _fakes(module))
    with mode:
        node.meta["val"] = target(*values[0], **values[1])
    return node


def _fakes(module: GraphModule) -> Iterator[Any]:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            yield value


def replace(module: GraphModule, old: Node, new: Node) -> None:
    """Puts `new` where `old` was used, and drops `old` and what only it used."""
    old.replace_all_uses_with(new)
    erase_dead(module, old)


def erase_dead(module: GraphModule, node: Node) -> None:
    """Removes `node` and, upwards, every call that is left without a user."""
    if node.users or node.op != "call_function":
        return
    inputs = list(node.all_input_nodes)
    module.graph.erase_node(node)
    for source in inputs:
        if source in module.graph.nodes:
            erase_dead(module, source)


def drop_identities(module: GraphModule) -> None:
    """Removes type assertions and the copies, casts and dropouts that change nothing in evaluation mode."""
    for node in calls(module, aten._assert_tensor_metadata.default):
        module.graph.erase_node(node)
    for node in calls(module, *_IDENTITIES):
        source = node.args[0]
        training = node.target is aten.dropout.default and node.args[2]
        if isinstance(source, Node) and not training and dtype(source) == dtype(node):
            replace(module, node, source)
