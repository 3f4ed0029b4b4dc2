"""Images in buildah's store, each mounted once: what is in them, and what they say of themselves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TOKENMILL_TEST_IMAGES"  # SERVICE=IMAGE, with spaces between; "base" among them


@dataclass(frozen=True)
class Image:
    """`root` is where its files are; what is mounted below it, or written, is in no image."""

    service: str
    name: str
    root: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """As the image specification has it: User, Env, Entrypoint, …"""
        return dict(self._description["OCIv1"]["config"])

    @cached_property
    def history(self) -> list[str]:
        """What each layer was made by, those of the base included."""
        return [layer.get("created_by", "") for layer in self._description["OCIv1"]["history"]]

    @cached_property
    def _description(self) -> dict[str, Any]:
        return dict(json.loads(buildah("inspect", "--type", "image", self.name)))

    @cached_property
    def size_bytes(self) -> int:
        """Of its files, as they lie on a disk."""
        found = {(entry.st_dev, entry.st_ino): entry.st_blocks * 512 for entry in map(os.lstat, self._paths())}
        return sum(found.values())

    def programs(self) -> set[str]:
        """The names of what can be run by name, wherever it is."""
        return {path.rpartition("/")[2] for path in self._paths() if _is_program(os.lstat(path))}

    def _paths(self) -> list[str]:
        return [f"{folder}/{name}" for folder, names, files in os.walk(self.root) for name in (*names, *files)]


def _is_program(found: os.stat_result) -> bool:
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111))


@contextmanager
def images() -> Iterator[dict[str, Image]]:
    """The images that `VARIABLE` names, by service, until the end of the block."""
    with ExitStack() as mounts:
        named = dict(pair.split("=", 1) for pair in os.environ[VARIABLE].split())
        yield {service: Image(service, name, mounts.enter_context(_mounted(name))) for service, name in named.items()}


@contextmanager
def _mounted(name: str) -> Iterator[Path]:
    container = buildah("from", "--pull-never", name)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
