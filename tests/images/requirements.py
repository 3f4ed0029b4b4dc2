"""The pins of each image, as pip reads them."""

from __future__ import annotations

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "images" / "requirements"
FILES = ("gateway", "tokenizer", "worker-cpu", "worker-cuda", "build")


def entries(name: str) -> list[str]:
    """Each requirement with its hashes, on one line."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Version by package."""
    return dict(entry.split()[0].split("==") for entry in entries(name))
