"""A machine of its own, as far as the network goes: a namespace at the other end of a link that can be taken down.

Then packets vanish, without a reset, and the kernel sends again and again what was not acknowledged; our proxy, which
holds bytes back, cannot show that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

IP = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
LACKING = "the command ip" if not IP else "root, who may make network namespaces" if os.geteuid() else ""


@dataclass(frozen=True)
class Namespace:
    """`host` is the address of what runs in it; `within` is the command that becomes what is to run in it."""

    name: str
    host: str
    end: str  # of the link, in there

    @property
    def within(self) -> tuple[str, ...]:
        assert IP
        return IP, "netns", "exec", self.name

    def cut_off(self) -> None:
        """Take the link down at its other end: here the way there stays, so that nothing looks for another one."""
        _ip("-netns", self.name, "link", "set", self.end, "down")

    def join(self) -> None:
        """Bring the link up."""
        _ip("-netns", self.name, "link", "set", self.end, "up")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """One that is joined to us. Its addresses are those that are kept for tests of networks (RFC 2544)."""
    number = os.getpid()
    ours, theirs = (f"198.18.{number >> 6 & 255}.{(number & 63) * 4 + place}" for place in (1, 2))
    made = Namespace(f"tokenmill-{number}", theirs, f"tmill{number}b")
    end = f"tmill{number}a"
    _ip("netns", "add", made.name)
    try:
        _ip("link", "add", end, "type", "veth", "peer", "name", made.end, "netns", made.name)
        _ip("address", "add", f"{ours}/30", "dev", end)
        _ip("link", "set", end, "up")
        _ip("-netns", made.name, "address", "add", f"{theirs}/30", "dev", made.end)
        _ip("-netns", made.name, "link", "set", "lo", "up")
        made.join()
        yield made
    finally:
        subprocess.run([str(IP), "link", "delete", end], check=False)  # it may not have come so far
        _ip("netns", "delete", made.name)


def _ip(*words: str) -> None:
    subprocess.run([str(IP), *words], check=True)
