"""The engine that a script describes: its faults, its pace, and what it says."""

from __future__ import annotations

import collections.abc
import os
import time

from model_worker.engine import Engine, OutOfMemory, RowFailure, Segment
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault, seconds_per_step
from model_worker.engines.reciting_engine import RecitingEngine
from model_worker.engines.script import FaultRule, Script

_FAILURE = RowFailure("SCRIPTED_FAILURE", "this output fails because the worker's script says so")


def scripted_engine(script: Script, vocabulary_size: int, adapters: tuple[str, ...] = ()) -> Engine:
    """Return an engine that does what `script` says, for ids below `vocabulary_size`."""
    model = FakeModel(
        vocabulary_size=vocabulary_size,
        context_length=script.context_length,
        kv_capacity_tokens=script.capacity,
        eos_token_ids=frozenset() if script.eos_token_id is None else frozenset({script.eos_token_id}),
        eos_after=script.eos_after,
        adapters=adapters,
    )
    faults = [_fault(rule) for rule in script.faults]
    if script.seconds_per_step or script.seconds_per_token:
        faults.append(seconds_per_step(script.seconds_per_step, script.seconds_per_token))
    return RecitingEngine(model, script.ids, *faults) if script.ids else FakeEngine(model, *faults)


def _fault(rule: FaultRule) -> Fault:
    """Return what `rule` does, as something an engine asks before each step."""

    def fault(step: int, segments: collections.abc.Sequence[Segment]) -> dict[int, RowFailure] | None:
        struck = [index for index, segment in enumerate(segments) if _strikes(rule, step, segment)]
        return _strike(rule, struck) if struck else None

    return fault


def _strikes(rule: FaultRule, step: int, segment: Segment) -> bool:
    if rule.at_step is not None:
        return step == rule.at_step
    sequence = segment.sequence
    if not segment.draws or sequence.generated_tokens != rule.after_tokens:
        return False
    return rule.prompt_has in sequence.ids[: sequence.prompt_tokens]


def _strike(rule: FaultRule, struck: list[int]) -> dict[int, RowFailure]:
    match rule.what:
        case "stall":
            time.sleep(rule.seconds)
        case "fail_row":
            return dict.fromkeys(struck, _FAILURE)
        case "out_of_memory":
            raise OutOfMemory
        case "break":
            raise RuntimeError("the script breaks the engine")
        case "exit":
            os._exit(1)
    return {}
