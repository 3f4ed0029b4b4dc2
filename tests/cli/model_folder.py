"""A folder that looks like a model's."""

from __future__ import annotations

from pathlib import Path

from cli.demo_model import REQUIRED_FILES


def complete_folder(folder: Path) -> Path:
    """Make `folder` with an empty file for each that a service needs."""
    folder.mkdir()
    for name in REQUIRED_FILES:
        (folder / name).touch()
    return folder
