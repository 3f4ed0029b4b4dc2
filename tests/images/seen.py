"""A table of what was seen: a row per thing, a column per image."""

from __future__ import annotations

COLUMNS = ("gateway", "tokenizer", "worker")


class Seen:
    """Filled by tests as they look, whether they then like it or not."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}

    def note(self, what: str, image: str, value: object) -> None:
        self.rows.setdefault(what, {})[image] = str(value)

    def lines(self) -> list[str]:
        table = [("", *COLUMNS), *((what, *(row.get(name, "") for name in COLUMNS)) for what, row in self.rows.items())]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
