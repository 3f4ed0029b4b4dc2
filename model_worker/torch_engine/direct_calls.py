"""Compiled layers, called past the compiler's entrance.

Each call of a compiled module asks first, in Python, whether the compiled code still fits: for the layers of a small
model that takes longer than what the code computes. The engine calls its layers in one way only. So it is learnt, while
the warm-up runs, what a layer's call hands to the compiled code: its own weights, what it was called with, and the
number of tokens. From then on the code is called with that at once. A call that looks different takes the usual way,
and a layer that hands over anything else always does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.fx import GraphModule

Code: TypeAlias = Callable[..., Sequence[Any]]  # takes a graph's inputs and returns its outputs


class _Entry(NamedTuple):
    """Compiled code was called with these inputs."""

    code: Code
    inputs: tuple[Any, ...]
    outputs: Sequence[Any]


class Backend:
    """A backend of torch.compile: inductor, whose code can be watched."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._seen: list[_Entry] | None = None

    @contextmanager
    def watched(self) -> Iterator[list[_Entry]]:
        """Yield what code is called with until the end of the block."""
        seen: list[_Entry] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None  # or the last step's tensors would live on

    def __call__(self, graph: GraphModule, example_inputs: Sequence[Any]) -> Code:
        """Compile `graph`."""
        inductor: Any = torch._inductor  # noqa: SLF001 - its documented entrance, without types
        compiled = inductor.compile(graph, list(example_inputs), options=self._options)

        def code(*inputs: Any) -> Sequence[Any]:
            outputs: Sequence[Any] = compiled(*inputs)
            if self._seen is not None:
                self._seen.append(_Entry(compiled, inputs, outputs))
            return outputs

        return code


class _Call(NamedTuple):
    """A call of a module that ran compiled code."""

    tensors: list[torch.Tensor]  # that the module was called with
    looks: Hashable
    entry: _Entry


@dataclass(frozen=True)
class _Plan:
    """How to call the code: `inputs`, with some of them filled in. `tensors` and `counts` name them by their place."""

    code: Code
    looks: Hashable
    inputs: Sequence[Any]
    tensors: Sequence[tuple[int, int]]  # an input, and which of the tensors that the module was called with it is
    counts: Sequence[int]  # inputs that are the number of tokens

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Any:
        inputs = list(self.inputs)
        for place, which in self.tensors:
            inputs[place] = tensors[which]
        for place in self.counts:
            inputs[place] = _tokens(tensors)
        [output] = self.code(*inputs)
        return output


class DirectModule:
    """What runs in place of `module`: its compiled code, once `learn` has seen how that is called.

    Until `forget`. For modules that get the tokens of a step as [1, tokens, ...] and return one tensor; others are
    compiled, and called in the usual way.
    """

    def __init__(self, module: nn.Module, backend: Backend) -> None:
        self._module = module
        self._backend = backend
        self._compiled: Callable[..., Any] = torch.compile(
            module._call_impl,  # noqa: SLF001 - what Module.compile compiles
            backend=backend,
            dynamic=True,
            fullgraph=True,
        )
        self._calls: list[_Call] | None = []
        self._plans: dict[bool, _Plan] = {}  # for one token, and for more: there is code for each
        module._compiled_call_impl = self  # noqa: SLF001 - as Module.compile does

    def forget(self) -> None:
        """Let the module run uncompiled."""
        self._module._compiled_call_impl = None  # noqa: SLF001

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module returns."""
        tensors: list[torch.Tensor] = []
        looks = _looks((args, kwargs), tensors)
        if self._calls is not None:
            return self._watched(args, kwargs, tensors, looks)
        plan = self._plans.get(_tokens(tensors) == 1)
        if plan is None or plan.looks != looks:
            return self._compiled(*args, **kwargs)
        return plan(tensors)

    def learn(self) -> None:
        """Call the code directly from now on, as in the calls so far."""
        calls, self._calls = self._calls or [], None
        own = {id(tensor) for tensor in [*self._module.parameters(), *self._module.buffers()]}
        for single in (True, False):
            alike = [call for call in calls if (_tokens(call.tensors) == 1) is single]
            # From one number of tokens nothing can be said about others.
            told = alike and (single or len({_tokens(call.tensors) for call in alike}) > 1)
            plan = _plan(alike, own) if told else None
            if plan is not None:
                self._plans[single] = plan

    @property
    def is_direct(self) -> bool:
        """Whether calls go to the code at once, with one token and with more."""
        return len(self._plans) == 2

    def _watched(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor], looks: Hashable
    ) -> Any:
        assert self._calls is not None
        with self._backend.watched() as seen:
            result = self._compiled(*args, **kwargs)
        if len(seen) == 1 and len(seen[0].outputs) == 1 and seen[0].outputs[0] is result:
            self._calls.append(_Call(tensors, looks, seen[0]))
        return result


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Let `model` run as it was written until the end of the block."""
    compiled = {module: module._compiled_call_impl for module in model.modules()}  # noqa: SLF001 - as Module.compile
    for module in compiled:
        module._compiled_call_impl = None  # noqa: SLF001
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call  # noqa: SLF001


def _plan(calls: Sequence[_Call], own: Iterable[int]) -> _Plan | None:
    """Return how `calls` ran the code, None when they do not agree or something in them is of unknown origin."""
    first = calls[0]
    if any(call.entry.code is not first.entry.code or call.looks != first.looks for call in calls):
        return None
    inputs, tensors, counts = list(first.entry.inputs), [], []
    for place, given in enumerate(zip(*(call.entry.inputs for call in calls), strict=True)):
        if id(given[0]) in own and all(each is given[0] for each in given):
            continue
        inputs[place] = None
        if isinstance(given[0], torch.Tensor):
            places = {_place_of(each, call.tensors) for each, call in zip(given, calls, strict=True)}
            which = places.pop()
            if which is None or places:
                return None
            tensors.append((place, which))
        elif [*given] == [_tokens(call.tensors) for call in calls]:
            counts.append(place)
        else:
            return None
    return _Plan(first.entry.code, first.looks, inputs, tensors, counts)


def _place_of(given: object, tensors: Sequence[torch.Tensor]) -> int | None:
    return next((place for place, tensor in enumerate(tensors) if tensor is given), None)


def _tokens(tensors: Sequence[torch.Tensor]) -> int:
    """Return how many tokens a module got that was called with `tensors`: the first of them is [1, tokens, ...]."""
    return tensors[0].shape[1] if tensors and tensors[0].dim() > 1 else 0


def _looks(value: object, tensors: list[torch.Tensor]) -> Hashable:
    """Return what must stay the same of an argument; append to `tensors` those in it.

    Of a tensor that is all but its contents and the number of tokens, its second size. What is neither a tensor nor a
    plain value looks different every time.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return value.dtype, value.shape[:1], value.shape[2:], value.is_contiguous()
    if isinstance(value, tuple | list):
        return tuple([_looks(each, tensors) for each in value])
    if isinstance(value, dict):
        return tuple([(key, _looks(each, tensors)) for key, each in value.items()])
    return value if value is None or isinstance(value, bool | int | float | str) else object()
