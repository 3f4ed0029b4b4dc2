"""A worker as people are shown it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What is known of it now. Its address is not told."""

    id: str  # of this start of it; empty if it was never ready
    ready: bool
    refused: bool  # it gets no request: its vocabulary is not the tokenizer service's
    models: tuple[str, ...]
    running: int  # rows
    waiting: int  # rows
    max_rows: int
    kv_tokens_used: int
    kv_tokens_total: int
