"""What the worker knows about one row: its ids, its parameters and how far it has come. No torch, no protobuf."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum, auto


class FinishReason(Enum):
    """Why a row ended normally (the contract's FinishReason, as far as a worker can know it)."""

    END_OF_SEQUENCE = auto()
    STOP_TOKEN = auto()
    STOP_STRING = auto()  # the gateway matched a stop string and sent `stop_row`
    MAX_NEW_TOKENS = auto()
    CONTEXT_LENGTH = auto()
    TIME_LIMIT = auto()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Effective sampling settings of one row: nothing is left to a default. `temperature == 0` is greedy.

    Penalties and bias hold for greedy rows too; the filters (top_k, top_p, min_p, typical_p) only for sampling ones.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0  # 1: all
    min_p: float = 0.0  # 0: all
    typical_p: float = 1.0  # 1: all
    repetition_penalty: float = 1.0  # 1: none; counts the prompt's ids and the generated ones
    presence_penalty: float = 0.0  # counts generated ids only
    frequency_penalty: float = 0.0  # counts generated ids only
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit), ids ascending
    seed: int = 0  # uint64, the key of the counter-based draw


@dataclass(frozen=True, slots=True)
class RowParams:
    """How one row is to be generated; checked at the servicer, immutable afterwards."""

    sampling: SamplingParams = SamplingParams()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    max_new_tokens: int = 1024
    generated_prefix: int = 0  # trailing tokens of the given ids that an earlier attempt generated
    time_limit_seconds: float | None = None  # counted from arrival at the worker
    logprobs: int | None = None  # of each drawn token, with so many alternatives; None: not wanted
    prompt_logprobs: int | None = None  # of each prompt token but the first, likewise
    cache_salt: str = ""  # rows with different salts never share K/V across requests
    adapter: str = ""  # name of the LoRA adapter; "": the base model


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous range of the K/V arena, in tokens: `[start, start + capacity)`."""

    start: int
    capacity: int


@dataclass(slots=True, eq=False)
class Sequence:
    """One row on its way through the engine. Owned by the generation thread; compared by identity.

    `ids` holds the prompt followed by everything generated (int32). `computed` counts the leading ids whose K/V
    stand in `extent`; the row draws a token in the step that computes its last known id.
    """

    params: RowParams
    ids: array[int]  # array("i")
    prompt_tokens: int  # leading ids that the caller wrote: len(ids at arrival) - generated_prefix
    computed: int = 0
    extent: Extent | None = None
    banned_ids: frozenset[int] = field(default=frozenset())  # never drawn before min_new_tokens (eos and stop ids)

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, those of an earlier attempt included."""
        return len(self.ids) - self.prompt_tokens

    @property
    def uncomputed(self) -> int:
        """Known tokens whose K/V still have to be computed (1 while decoding)."""
        return len(self.ids) - self.computed
