"""Many LoRA adapters beside one base model, in one ragged step: y = W x + scaling · B (A x), A and B per row.

The tokens of one adapter stand together in a step, so that each layer needs one pair of matrix products per adapter.
A step without adapters costs each layer one look at an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.functional import pad

from model_worker.engine import Segment
from model_worker.loading.load_errors import UnsupportedModelError

_ROWS_PER_THREAD = 8  # with fewer, the rows of a product on a CPU may depend on how many there are

LoraOperator: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]  # out (changed), x, layer


class Run(NamedTuple):
    """Consecutive rows of what a layer gets that belong to one adapter: `[start, start + length)`."""

    adapter: str
    start: int
    length: int


class LoraRows:
    """Whose rows a layer gets in the current step. Shared by all layers that get the same rows."""

    def __init__(self) -> None:
        self.runs: Sequence[Run] = ()  # base rows are in none
        self.total = 0  # all rows, where there are runs

    def set(self, segments: Sequence[Segment], lengths: Sequence[int]) -> None:
        """Lay `segments` end to end, each with its number of rows."""
        runs, start = [], 0
        owned = zip((segment.sequence.params.adapter for segment in segments), lengths, strict=True)
        for adapter, group in groupby(owned, key=lambda pair: pair[0]):
            length = sum(pair[1] for pair in group)
            if adapter:
                runs.append(Run(adapter, start, length))
            start += length
        self.runs, self.total = runs, start

    def clear(self) -> None:
        """Every row is the base model's."""
        self.runs, self.total = (), 0


class LoraPair(NamedTuple):
    """What one adapter adds to one layer: rows [n, in] times `a` [in, r] times `b` [r, out], times `scaling`."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Add what the pair makes of `x` [n, in] to `out` [n, out], in place."""
        rows = x.shape[0]
        missing = _ROWS_PER_THREAD * torch.get_num_threads() - rows
        if missing > 0 and x.device.type == "cpu":
            # A CPU multiplies few rows by other kernels than many, which round differently: on Intel's one row, on
            # AMD's one to three for each thread. Above that rows do not depend on their number. So a row's text under
            # int8 is the same in any batch.
            out.add_(pad(x, (0, 0, 0, missing)).mm(self.a).mm(self.b)[:rows], alpha=self.scaling)
        else:
            out.add_(x.mm(self.a).mm(self.b), alpha=self.scaling)


class LoraLinear(nn.Module):
    """A linear layer of any kind, quantized or not, with what adapters add to it.

    Compiled code meets that as one opaque operator (`add`), also where there is nothing to add: were it left out then,
    there would be two kinds of compiled code, and a row's text under int8 could depend on who shares its batch.
    """

    def __init__(self, base: nn.Module, rows: LoraRows, number: int, add: LoraOperator) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("number", torch.tensor(number), persistent=False)  # in a tensor: see RaggedAttention
        self.number: torch.Tensor
        self._rows = rows
        self._add = add
        self._pairs: dict[str, LoraPair] = {}

    @property
    def has_rows(self) -> bool:
        """Whether an adapter has rows in this step."""
        return bool(self._rows.runs)

    def add_adapter(self, adapter: str, pair: LoraPair) -> None:
        """Give rows of `adapter` what `pair` says."""
        self._pairs[adapter] = pair

    @property
    def adapter_bytes(self) -> int:
        """What the adapters hold here."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self._pairs.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for `x` [..., in], whose rows are those of `LoraRows`."""
        out: torch.Tensor = self.base(x)
        if torch.compiler.is_compiling():
            self._add(out, x, self.number)
        elif self._rows.runs:
            self.add_pairs(out, x)
        return out

    def add_pairs(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Add to `out`, in place, what the adapters of the rows make of `x`."""
        # A layer of a model that is spread over several devices moves its input by itself.
        x, out = x.reshape(-1, x.shape[-1]).to(out.device), out.view(-1, out.shape[-1])
        if x.shape[0] != self._rows.total:
            # Found by the self-test, in a model that computes a layer for some of its tokens only.
            raise UnsupportedModelError(f"a layer with LoRA got {x.shape[0]} rows in a step of {self._rows.total}")
        for adapter, start, length in self._rows.runs:
            pair = self._pairs.get(adapter)
            if pair is not None:
                pair.add_to(out.narrow(0, start, length), x.narrow(0, start, length))
