"""One panel: lines over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """`queries` are expressions by their legends."""

    title: str
    description: str
    unit: str  # as Grafana calls it
    queries: Mapping[str, str]
    stacked: bool = False
    most: float | None = None  # the upper end of the axis
