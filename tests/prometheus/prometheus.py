"""A Prometheus of our own, in a process, and its HTTP API."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import yaml

from tests.prometheus.files import RULES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

SCRAPE_SECONDS = 0.5
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 60.0

Sample = tuple[dict[str, str], float]


class Prometheus:
    """One that runs."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def ask(self, expression: str) -> list[Sample]:
        """What an expression comes to now: labels and values. An expression that is refused fails."""
        response = await self._client.post("/api/v1/query", data={"query": expression})
        answer = response.json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        assert not answer.get("warnings"), answer["warnings"]
        result = answer["data"]["result"]
        if answer["data"]["resultType"] == "scalar":
            return [({}, float(result[1]))]
        return [(one["metric"], float(one["value"][1])) for one in result]

    async def rules(self) -> list[dict[str, Any]]:
        """All rules, as it sees them."""
        groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def until(self, what: str, holds: Callable[[], Awaitable[object]]) -> None:
        """Return once `holds` returns something true. Errors: AssertionError, after a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await holds():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(LOOK_SECONDS)  # another process has to get on


def tells(samples: Sequence[Sample]) -> bool:
    """Whether there is a number among them."""
    return any(not math.isnan(value) for _, value in samples)


@asynccontextmanager
async def prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> AsyncIterator[Prometheus]:
    """One that scrapes `targets`, by job, and evaluates our rules; with nothing else set than what is short here."""
    seconds = f"{int(SCRAPE_SECONDS * 1000)}ms"
    config = {
        "global": {"scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": seconds},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(where)}]} for job, where in targets.items()
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = _free_port()
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            running = Prometheus(client)
            await running.until("Prometheus is ready", lambda: _is_ready(client, process))
            yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _is_ready(client: httpx2.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    assert process.returncode is None, "Prometheus has ended"
    try:
        return (await client.get("/-/ready")).status_code == 200
    except httpx2.TransportError:
        return False


def _free_port() -> int:
    """It cannot be told to choose one and to say which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
