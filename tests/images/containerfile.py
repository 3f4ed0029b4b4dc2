"""Containerfiles as instructions, comments and line ends taken out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "images"


@dataclass(frozen=True)
class Instruction:
    """One instruction, of the stage that it stands in: 0 is before the first FROM."""

    stage: int
    name: str
    rest: str


def instructions(image: str) -> list[Instruction]:
    """Those of an image's Containerfile, in order."""
    text = (FOLDER / f"{image}.Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found, stage = [], 0
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(rest.split())))
    return found


def all_of(image: str, name: str) -> list[Instruction]:
    """The instructions of one kind."""
    return [each for each in instructions(image) if each.name == name]


def environment(image: str) -> dict[str, str]:
    """What the last stage sets."""
    last = max(each.stage for each in instructions(image))
    pairs = [pair for each in all_of(image, "ENV") if each.stage == last for pair in shlex.split(each.rest)]
    return dict(pair.split("=", 1) for pair in pairs)
