"""What the metrics say of the gateway's state: what is known, and zeros for what was."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.admission.lane import LaneState
from gateway.fleet.worker_state import WorkerState
from gateway.state_metrics import MAX_MODELS, StateMetrics
from tests.gateway.test_metrics import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "small"
IDLE = LaneState(0, 0, 0, 1024, math.inf)


@dataclass
class Surroundings:
    """All that the metrics look at."""

    workers: Sequence[WorkerState] = ()
    lanes: dict[str, LaneState] = field(default_factory=dict)
    retries: int = 5
    refused_workers: int = 1
    ready: int = 2
    open_breakers: int = 3
    sent_tokens: dict[str, int] = field(default_factory=dict)
    sent_padding_tokens: dict[str, int] = field(default_factory=dict)

    @property
    def models(self) -> Sequence[str]:
        return list(self.lanes)

    def state(self, model: str) -> LaneState:
        return self.lanes.get(model, IDLE)

    def states(self) -> Sequence[WorkerState]:
        return self.workers


def worker(
    number: int = 1, *, ready: bool = True, refused: bool = False, models: tuple[str, ...] = (MODEL, "adapter")
) -> WorkerState:
    return WorkerState(str(number), ready, refused, models, 4, 1, 32, 100, 1000)


def metrics_of(around: Surroundings) -> StateMetrics:
    return StateMetrics(around, around, around)


def test_what_there_is_now_is_looked_up():
    around = Surroundings(
        [worker(), worker(2, ready=False), worker(3, refused=True)],
        {MODEL: LaneState(3, 2, 70, 1024, 5000.0)},
        sent_tokens={MODEL: 90},
        sent_padding_tokens={MODEL: 20},
    )
    told = samples(metrics_of(around))
    assert told["tokenmill_requests_running", MODEL] == 3
    assert told["tokenmill_requests_waiting", MODEL] == 2
    assert told["tokenmill_requests_waiting_limit", MODEL] == 1024
    assert told["tokenmill_waiting_tokens", MODEL] == 70
    assert told["tokenmill_waiting_tokens_limit", MODEL] == 5000
    assert [told["tokenmill_workers", MODEL, state] for state in ("ready", "not_ready", "refused")] == [1, 1, 1]
    assert told["tokenmill_rows", MODEL, "running"] == 4
    assert told["tokenmill_rows_limit", MODEL] == 32
    assert told["tokenmill_kv_tokens_used", MODEL] == 100
    assert told["tokenmill_kv_tokens_capacity", MODEL] == 1000
    assert told["tokenmill_retries_total", "worker"] == told["tokenmill_retries_total", "tokenizer"] == 5
    assert told["tokenmill_breakers_open", "worker"] == told["tokenmill_breakers_open", "tokenizer"] == 3
    assert told["tokenmill_refused_workers_total",] == 1
    assert told["tokenmill_tokenizers_ready",] == 2
    assert told["tokenmill_sent_tokens_total", MODEL] == 90
    assert told["tokenmill_sent_padding_tokens_total", MODEL] == 20


def test_a_model_that_is_served_is_there_before_anybody_has_asked_for_it():
    told = samples(metrics_of(Surroundings([worker()])))
    assert told["tokenmill_requests_running", MODEL] == told["tokenmill_requests_waiting", MODEL] == 0
    assert told["tokenmill_waiting_tokens_limit", MODEL] == math.inf


def test_a_model_whose_workers_are_gone_is_there_with_zeros():
    around = Surroundings([worker()])
    metrics = metrics_of(around)
    samples(metrics)
    around.workers = ()
    told = samples(metrics)
    assert told["tokenmill_workers", MODEL, "ready"] == told["tokenmill_rows_limit", MODEL] == 0
    assert told["tokenmill_requests_waiting", MODEL] == 0


def test_a_worker_that_was_never_ready_is_of_no_model():
    told = samples(metrics_of(Surroundings([worker(ready=False, models=())])))
    assert told["tokenmill_workers", "", "not_ready"] == 1
    assert ("tokenmill_requests_waiting", "") not in told


def test_however_often_models_are_renamed_so_many_are_remembered():
    around = Surroundings()
    metrics = metrics_of(around)
    for number in range(MAX_MODELS + 20):
        around.workers = [worker(models=(f"model-{number}",))]
        list(metrics.collect())
    told = [key for key in samples(metrics) if key[0] == "tokenmill_requests_waiting"]
    assert len(told) == MAX_MODELS
