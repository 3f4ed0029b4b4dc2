"""What the bench found, as plain values: they become JSON and back without loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Cell: TypeAlias = str | int | float | None  # None: not measured, or no such thing


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; the first column names the row. Units stand in the column names."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True, slots=True)
class Check:
    """A number that was promised. Exactly one of the bounds is given."""

    what: str
    value: float | None  # None: could not be measured, so it is not met
    at_least: float | None = None
    at_most: float | None = None
    goal: float | None = None  # what is hoped for beyond the bound

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        if self.value is None:
            return False
        return self.value >= self.at_least if self.at_least is not None else self.value <= (self.at_most or 0.0)


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines through points, by name."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass(slots=True)
class Section:
    """The answer to one question of the bench."""

    title: str
    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why
    failed: bool = False  # the section broke off


@dataclass(frozen=True, slots=True)
class Results:
    """All sections by name, and what they were measured on. Sections of one file share their conditions."""

    conditions: dict[str, str]
    sections: dict[str, Section] = field(default_factory=dict)
