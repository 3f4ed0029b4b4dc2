"""Results as a JSON file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.report.results import Check, Plot, Results, Section, Table


def write(results: Results, path: Path) -> None:
    """Replace the file."""
    path.write_text(json.dumps(dataclasses.asdict(results), indent=1) + "\n", encoding="utf-8")


def read_or_new(path: Path, conditions: dict[str, str]) -> Results:
    """What was measured before under the same `conditions`, so that sections can be run one by one; else nothing."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["conditions"] == conditions:
            return Results(conditions, {name: _section(fields) for name, fields in content["sections"].items()})
    return Results(conditions)


def _section(fields: dict[str, Any]) -> Section:
    return Section(
        title=fields["title"],
        tables=[Table(**table) for table in fields["tables"]],
        checks=[Check(**check) for check in fields["checks"]],
        plots=[_plot(plot) for plot in fields["plots"]],
        notes=fields["notes"],
        failed=fields["failed"],
    )


def _plot(fields: dict[str, Any]) -> Plot:
    lines = {name: [(x, y) for x, y in points] for name, points in fields["lines"].items()}
    return Plot(fields["title"], fields["x_label"], fields["y_label"], lines)
