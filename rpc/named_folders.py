"""The values of a repeatable option that names folders: `[NAME=]PATH`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def named_folders(flag: str, values: Sequence[str]) -> dict[str, Path]:
    """The folders in the `values` of `flag`, by name; without one, the folder's own.

    Errors: ValueError with one line for people.
    """
    folders: dict[str, Path] = {}
    for value in values:
        before, separator, after = value.partition("=")
        folder = Path(after if separator else value)
        name = before if separator else folder.resolve().name
        if not name or (separator and not after):
            raise ValueError(f"{flag} {value}: not [NAME=]PATH")
        if name in folders:
            raise ValueError(f"{flag} {value}: the name {name!r} is given twice")
        folders[name] = folder
    return folders
