"""Containers as Kubernetes makes them, by runc: a user that is nobody, a root that cannot be written, no capability, no
way to new privileges, the engines' seccomp rules, and one network for all of a pod, in which there is nobody else.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.images.seccomp import as_runtime_has_it
from tests.processes import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.images.built import Image

SECCOMP = Path("/usr/share/containers/seccomp.json")  # of podman, buildah and CRI-O; Docker's is the same list
KINDS_OF_CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
ROOM = ["nosuid", "nodev", "mode=1777", "size=64m"]  # of /tmp


class Container(Process):
    """One that runs. Its lines are those of its log."""

    def __init__(self, name: str, state: Path, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.name = name
        self._state = state

    def network(self) -> Path:
        """Where others join its network."""
        return Path(f"/proc/{self._main_pid()}/ns/net")

    def terminate(self) -> None:
        """SIGTERM to process 1 in it, as every engine does."""
        _runc(self._state, "kill", self.name, "TERM")

    async def run(self, *command: str) -> tuple[int, str]:
        """Run a command in it, as an exec probe is; its exit code, and what it says."""
        return await _output("runc", "--root", str(self._state), "exec", self.name, *command)

    async def from_next_door(self, *command: str, said: str = "") -> tuple[int, str]:
        """Run a command of this machine in the container's network."""
        return await _output("nsenter", f"--net={self.network()}", *command, said=said)

    def _main_pid(self) -> int:
        return int(json.loads(_runc(self._state, "state", self.name))["pid"])


@asynccontextmanager
async def container(
    image: Image,
    folder: Path,
    *arguments: str,
    entrypoint: Sequence[str] = (),
    mounts: Sequence[dict[str, Any]] = (),
    network: Path | None = None,
) -> AsyncIterator[Container]:
    """One of `image`; killed at the end, if it still lives. `entrypoint`: not its own. `network`: another one's."""
    bundle, state = folder / image.service, folder / "state"
    bundle.mkdir()
    command = [*(entrypoint or image.config["Entrypoint"]), *arguments]
    (bundle / "config.json").write_text(json.dumps(specification(image, command, mounts, network)))
    name = f"tokenmill-{os.getpid()}-{folder.name}-{image.service}"
    run = ("runc", "--root", str(state), "run", "--bundle", str(bundle), name)
    started = await asyncio.create_subprocess_exec(*run, stderr=asyncio.subprocess.PIPE)
    running = Container(name, state, started)
    try:
        yield running
    finally:
        if started.returncode is None:
            _runc(state, "kill", name, "KILL")
        await running.exit_code()


def specification(
    image: Image, command: Sequence[str], mounts: Sequence[dict[str, Any]], network: Path | None
) -> dict[str, Any]:
    """What a runtime is told of a container."""
    user, group = map(int, image.config["User"].split(":"))
    kinds = ("pid", "ipc", "uts", "mount")
    joined = {"type": "network"} if network is None else {"type": "network", "path": str(network)}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": list(command),
            "env": image.config["Env"],
            "cwd": image.config.get("WorkingDir") or "/",
            "capabilities": {kind: [] for kind in KINDS_OF_CAPABILITIES},
            "noNewPrivileges": True,
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": [*_usual_mounts(), *mounts],
        "linux": {
            "namespaces": [*({"type": kind} for kind in kinds), joined],
            "seccomp": as_runtime_has_it(json.loads(SECCOMP.read_text())),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def bound(source: Path, destination: str, *, writable: bool = False) -> dict[str, Any]:
    """A folder of this machine in a container."""
    options = ["rbind", "nosuid", "nodev", "rw" if writable else "ro"]
    return {"destination": destination, "type": "bind", "source": str(source.resolve()), "options": options}


def _usual_mounts() -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ROOM},
    ]


def _runc(state: Path, *arguments: str) -> str:
    return subprocess.run(["runc", "--root", str(state), *arguments], check=True, capture_output=True, text=True).stdout


async def _output(*command: str, said: str = "") -> tuple[int, str]:
    started = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    answer, _ = await started.communicate(said.encode())
    assert started.returncode is not None
    return started.returncode, answer.decode()
