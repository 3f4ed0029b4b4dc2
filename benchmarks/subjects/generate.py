"""The first baseline: `transformers.generate()` with static, left-padded batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.load.requests import Request
from benchmarks.subjects.transformers_model import greedy_options, load_float32


@dataclass(frozen=True, slots=True)
class BatchesRun:
    """Requests served batch by batch. A request's caller gets nothing before its whole batch is done."""

    requests: int
    tokens: int  # that were asked for; what a batch makes beyond is waste
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of use."""
        return self.tokens / self.seconds


class _StepClock:
    """A stopping criterion that never stops: it notes when each step of the batch was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class GenerateSubject:
    """`model.generate()` in float32."""

    def __init__(self, model: Path) -> None:
        self._model = load_float32(model)

    def decode(self, requests: Sequence[Request]) -> float:
        """Tokens per second after the first token of one batch of `requests`, which are alike."""
        times = self._generate(requests)
        return len(requests) * (len(times) - 1) / (times[-1] - times[0])

    def batches(self, requests: Sequence[Request], size: int) -> BatchesRun:
        """`requests` in batches of `size`, in order."""
        begin = time.perf_counter()
        for first in range(0, len(requests), size):
            self._generate(requests[first : first + size])
        tokens = sum(request.max_new_tokens for request in requests)
        return BatchesRun(len(requests), tokens, time.perf_counter() - begin)

    def _generate(self, requests: Sequence[Request]) -> list[float]:
        options = greedy_options(self._model, max(request.max_new_tokens for request in requests))
        width = max(len(request.ids) for request in requests)
        padding = [width - len(request.ids) for request in requests]
        rows = zip(requests, padding, strict=True)
        ids = torch.tensor([[options["pad_token_id"]] * pads + list(request.ids) for request, pads in rows])
        mask = torch.tensor([[0] * pads + [1] * (width - pads) for pads in padding])
        clock = _StepClock()
        with torch.inference_mode():
            config = GenerationConfig(**options)
            self._model.generate(ids, attention_mask=mask, generation_config=config, stopping_criteria=[clock])
        return clock.times
