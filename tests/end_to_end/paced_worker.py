"""A worker in a process of its own whose engine takes its time, says one thing, and breaks when told to.

`python -m tests.end_to_end.paced_worker --model FOLDER --step-seconds 0.01 --say "one two" …`
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import raise_at, seconds_per_step
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.lifecycle import run
from rpc.settings import from_command_line, option
from tests.end_to_end.speaker import Speaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_worker.loading.load_progress import LoadProgress

PROGRAM = "paced_worker"
CONTEXT = 220_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PacedSettings(WorkerSettings):
    """A model worker whose engine is a script."""

    say: str = option("what every output says, over and over", "one two three ")
    arithmetic: bool = option("say what the fake engine works out instead", False)
    step_seconds: float = option("how long one step takes", 0.0, at_least=0)
    break_at_step: int = option("the engine fails at this step; 0: never", 0, at_least=0)


def engine(settings: PacedSettings) -> FakeEngine:
    """What the settings describe."""
    tokenizer = Tokenizer.from_file(str(settings.model / "tokenizer.json"))
    size = max(tokenizer.get_vocab().values()) + 1
    sizes = {"vocabulary_size": size, "context_length": CONTEXT, "kv_capacity_tokens": 2 * CONTEXT}
    script = tuple(tokenizer.encode(settings.say).ids)
    model = FakeModel(**sizes) if settings.arithmetic else Speaker(**sizes, scripts=(script,) * size)
    faults = [seconds_per_step(settings.step_seconds)] if settings.step_seconds else []
    if settings.break_at_step:
        faults.append(raise_at(settings.break_at_step, RuntimeError(settings.say)))
    return FakeEngine(model, *faults)


def main() -> None:
    settings = from_command_line(PacedSettings, PROGRAM, sys.argv[1:])

    def load(_: WorkerSettings, __: Callable[[LoadProgress], None]) -> FakeEngine:
        return engine(settings)

    run(lambda: WorkerService(settings, load=load), settings, PROGRAM)


if __name__ == "__main__":
    main()
