"""What is put to the test: a served model, with somebody who knows what its rows say alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from model_worker.engine import Engine
from tests.model_worker.exactness.asks import Ask, Manner, Prompt
from tests.model_worker.exactness.oracles import Oracle
from tests.model_worker.exactness.stage import Kernels
from tests.model_worker.tiny_models import VOCABULARY

Gap = Callable[[Ask, list[int]], float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A served model and what may be asked of it."""

    name: str
    engine: Engine
    kernels: Kernels
    oracle: Oracle
    prompts: Sequence[Prompt]
    _: KW_ONLY
    eos_ids: frozenset[int] = frozenset(range(1, VOCABULARY, 16))  # so many that they are met now and then
    manners: Sequence[Manner] = (Manner(),)
    adapters: Sequence[str] = ("",)
    logprob_tolerance: float = 1e-9  # 0: they are equal bit for bit
    gap: Gap | None = None  # between the two best logits after some tokens, where rounding may exchange them
