"""Layers with the same input in one call: what q, k and v have in common, or gate and up, is then done once."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from operator import getitem
from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

_OPERATOR = "tokenmill::int8_linears"


class JoinLinears(CustomGraphPass):
    """Joins the calls of `NativeProducts` in a graph of torch's compiler that have their input in common."""

    def __call__(self, graph: Any) -> None:
        """Change `graph`."""
        calls: defaultdict[Any, list[Any]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target).replace(".", "::", 1).startswith(_OPERATOR):
                calls[node.args[0]].append(node)
        for x, alike in calls.items():
            if len(alike) > 1:
                _join(graph, x, alike)

    def uuid(self) -> Any:
        """Return what tells compiled code apart that another version of this pass made."""
        return get_hash_for_files((__file__,))


def _join(graph: Any, x: Any, calls: list[Any]) -> None:
    first = calls[0]
    # Weights are inputs of the graph, which stand before all calls.
    arguments = [list(chain.from_iterable(call.args[place] for call in calls)) for place in (1, 2, 3)]
    with graph.inserting_before(first):
        joined = graph.call_function(first.target, (x, *arguments))
    joined.meta["val"] = list(chain.from_iterable(call.meta["val"] for call in calls))
    offset = 0
    for call in calls:
        for user in list(call.users):
            assert user.target is getitem
            user.args = (joined, user.args[1] + offset)
        offset += len(call.meta["val"])
        graph.erase_node(call)
