"""Results as Markdown: what `make bench` prints, and what stands in docs/performance.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.results import Cell, Check, Results, Section, Table

BEGIN = "<!-- bench: from here to the end mark, written by make bench ARGS=--publish -->"
END = "<!-- bench: end -->"
FILES = "![Throughput and pauses](performance.svg)\n\nThe same for programs: [performance.json](performance.json)."


def as_markdown(results: Results) -> str:
    """Everything: conditions, then each section with its tables, promises and notes."""
    conditions = " · ".join(f"{name} {value}" for name, value in results.conditions.items())
    parts = [f"Measured with: {conditions}.", *(_section(section) for section in results.sections.values())]
    return "\n\n".join(parts) + "\n"


def publish(markdown: str, page: Path) -> None:
    """Replace what stands between the marks in `page`. Precondition: it has both marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{FILES}\n\n{markdown}\n{END}{after}", encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f"### {section.title}", *map(_table, section.tables)]
    if section.checks:
        parts.append("\n".join(map(check_line, section.checks)))
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    lines = [[*table.columns], ["---"] + ["---:"] * (len(table.columns) - 1)]
    lines += [[shown(cell) for cell in row] for row in table.rows]
    return "\n".join([f"{table.title}:", "", *("| " + " | ".join(line) + " |" for line in lines)])


def shown(cell: Cell) -> str:
    """A cell with as many digits as can mean something."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"


def check_line(check: Check) -> str:
    """One promise and what came of it."""
    bound = f"at least {check.at_least:g}" if check.at_least is not None else f"at most {check.at_most:g}"
    goal = f", goal {check.goal:g}" if check.goal is not None else ""
    value = "not measured" if check.value is None else shown(check.value)
    return f"- {'met' if check.met else '**MISSED**'}: {check.what}: {value} ({bound}{goal})"
