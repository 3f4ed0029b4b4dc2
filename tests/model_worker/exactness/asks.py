"""What a schedule asks for: rows, each with a prompt and a manner to generate in, and what may happen to them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from model_worker.sequence import RowParams, SamplingParams

if TYPE_CHECKING:
    from model_worker.batching.scheduler import SchedulerLimits

MOST_NEW_TOKENS = 16
Prompt: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a row is generated and what is told of it. The seed of `sampling` is the ask's."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    min_new_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def seeded(self, seed: int) -> Manner:
        """The same with a seed, for those that draw with one."""
        if self.sampling.temperature == 0:
            return self
        return replace(self, sampling=replace(self.sampling, seed=seed))


@dataclass(frozen=True, slots=True)
class Ask:
    """One row. What it says is known; `resumed` tokens of it were generated before, by a worker that is gone."""

    prompt: Prompt
    manner: Manner = field(default_factory=Manner)
    new_tokens: int = MOST_NEW_TOKENS
    resumed: int = 0
    stop_at: int | None = None  # the token it says there is a stop id
    ignore_eos: bool = True
    adapter: str = ""
    salt: str = ""
    time_limit: int | None = None  # in steps
    failure: str | None = None  # the reason it fails for
    fails_after: int = 0  # having said so many tokens; a row that says any is greedy, but for what makes it fail

    def params(self, stop_ids: frozenset[int], resumed: int) -> RowParams:
        """As the worker gets to see it."""
        return RowParams(
            sampling=self.manner.sampling,
            stop_token_ids=stop_ids,
            ignore_eos=self.ignore_eos,
            min_new_tokens=self.manner.min_new_tokens,
            max_new_tokens=self.new_tokens,
            generated_prefix=resumed,
            time_limit_seconds=self.time_limit,
            logprobs=self.manner.logprobs,
            prompt_logprobs=self.manner.prompt_logprobs,
            cache_salt=self.salt,
            adapter=self.adapter,
        )


@dataclass(frozen=True, slots=True)
class Arrive:
    """A request comes in: its rows in one padded tensor."""

    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """So many steps are computed."""

    count: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller of a request goes away. One that is not there, or over: nothing happens."""

    request: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The gateway found a stop string in a row."""

    request: int
    row: int


Action: TypeAlias = Arrive | Steps | Cancel | Stop


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens to one worker, in order; at the end it runs until no row is left."""

    actions: tuple[Action, ...]
    limits: SchedulerLimits
    spare_tokens: int  # of the arena, beside what the longest row needs
    prefix_caching: bool
    kernel: str
    context: int  # tokens, prompt included, after which a row ends
    refused_steps: frozenset[int] = frozenset()  # engine steps, from 1, that run out of memory
    refused_copies: frozenset[int] = frozenset()  # likewise copies of K/V

    @property
    def asks(self) -> list[Ask]:
        """The rows of all requests."""
        return [ask for action in self.actions if isinstance(action, Arrive) for ask in action.asks]


def ids_of(prompt: Prompt) -> array[int]:
    return array("i", prompt)
