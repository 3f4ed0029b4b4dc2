"""Every pod of a release is replaced, by the chart's own timings, while callers ask without a pause: none fails.

Callers are plain gRPC clients of the gateway's one address. As with a Kubernetes service, a connection of theirs stays
with the pod that it was given, ready or not, until the pod ends it; and they ask nothing a second time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.deploy.chart.cluster import cluster
from tests.deploy.chart.rendering import CONFIG_FILE, render
from tests.end_to_end.stack import NAME, write_model_folder
from tests.faults.callers import Traffic
from tests.faults.matrix import COMPLETED
from tests.faults.rules import violations
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.deploy.chart.cluster import Cluster
    from tests.deploy.chart.rendering import Deployment, Rendered

SCRIPT = {"seconds_per_step": 0.01, "seconds_per_token": 0.0005}
CONNECTIONS, CALLERS, MOST_TOKENS = 6, 24, 200
ANY = {
    "access": {"apiKeys": {"secretName": ""}, "anonymous": True},
    "models": [{"name": NAME, "replicas": 3, "config": {"engine": "scripted"}}],
}
PROBES = {"startup": {"periodSeconds": 1}, "readiness": {"periodSeconds": 1}, "liveness": {"periodSeconds": 2}}
SHORT = {
    "gateway": {"probes": PROBES, "drain": {"preStopSleepSeconds": 3, "drainSeconds": 1, "graceSeconds": 30}},
    "tokenizer": {"probes": PROBES, "drain": {"preStopSleepSeconds": 1, "drainSeconds": 1, "graceSeconds": 10}},
    # Shorter than many of the answers that they are at, so that others have to go on with those.
    "worker": {"probes": PROBES, "drain": {"preStopSleepSeconds": 1, "drainSeconds": 1, "graceSeconds": 0.5}},
}


class Callers:
    """Connections to the gateway's address, each to whichever pod it was given, until that one ends it."""

    def __init__(self, address: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CONNECTIONS)]
        self._turns = itertools.cycle([gateway_pb2_grpc.InferenceServiceStub(channel) for channel in self.channels])

    async def one(self) -> Any:
        return next(self._turns)


class Release:
    """The chart's Deployments, as they are rolled."""

    def __init__(self, running: Cluster, rendered: Rendered, folder: Path, model: Path) -> None:
        self._cluster = running
        self._deployments = rendered.deployments
        self._folder = folder
        self._model = model
        self._script = folder / "script.json"
        self._script.write_text(json.dumps(SCRIPT))

    async def install(self) -> None:
        """All pods at once; a gateway is ready when there is something behind it."""
        replicas = [deployment for deployment in self._deployments for _ in range(deployment.spec["replicas"])]
        await asyncio.gather(*map(self._grow, replicas))
        await self._cluster.settled()

    async def restart(self) -> None:
        """Every pod is replaced by another one: all Deployments at once, as after an upgrade."""
        await asyncio.gather(*map(self._roll, self._deployments))

    async def _roll(self, deployment: Deployment) -> None:
        assert deployment.spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        old = [pod for pod in self._cluster.pods if pod.deployment is deployment]
        async with asyncio.TaskGroup() as ending:
            for pod in old:
                await self._grow(deployment)
                ending.create_task(pod.terminate())  # nobody waits for its end before the next is added

    async def _grow(self, deployment: Deployment) -> None:
        config = self._folder / f"{deployment.name}.toml"
        config.write_text(deployment.config)
        mounted = {CONFIG_FILE: str(config), f"/models/{NAME}": str(self._model)}
        more = {"worker": ["--script", str(self._script)], "tokenizer": ["--threads", "1"]}
        await self._cluster.grow(deployment, more.get(deployment.tier, []), mounted)


@asynccontextmanager
async def installed(rendered: Rendered, folder: Path) -> AsyncIterator[tuple[Cluster, Release]]:
    model = write_model_folder(folder / "model")
    async with cluster(rendered) as running:
        release = Release(running, rendered, folder, model)
        await release.install()
        yield running, release


@pytest.mark.timeout(600)
@pytest.mark.parametrize("values", [SHORT, pytest.param({}, marks=pytest.mark.slow)], ids=["short", "as it comes"])
async def test_all_pods_are_replaced_and_no_call_fails(tmp_path: Path, values: dict[str, Any]):
    async with installed(render({**ANY, **values}), tmp_path) as (running, release):
        callers = Callers(running.service.address)
        traffic = Traffic(callers, MOST_TOKENS)  # type: ignore[arg-type]  # as good as gateways that are watched
        before = set(running.pods)
        async with traffic.of(CALLERS):
            await release.restart()
        for channel in callers.channels:
            await channel.close()
        check(running, traffic, len(before))
        assert all(pod.is_gone for pod in before)


def check(running: Cluster, traffic: Traffic, pods: int) -> None:
    replaced = [pod for pod in running.pods if pod.is_gone]
    ended = {pod: int(json.loads(stopped_line(pod.process.lines))["ended_calls"]) for pod in replaced}
    broken_off = {tier: sum(calls for pod, calls in ended.items() if pod.deployment.tier == tier) for tier in TIERS}
    silence = max(history.longest_silence for history in traffic.histories)
    print(
        f"\n{len(replaced)} pods replaced under {len(traffic.histories)} calls, {traffic.retries} of them asked again, "
        f"{silence:.1f} s without a word; broken off: {broken_off}"
    )
    assert len(replaced) == pods
    assert not [pod.deployment.name for pod in running.pods if pod.was_killed]
    assert not violations(traffic.histories)
    assert {history.outcome for history in traffic.histories} == {COMPLETED}
    assert traffic.retries == 0
    assert broken_off["gateway"] == broken_off["tokenizer"] == 0


TIERS = ("gateway", "tokenizer", "worker")


def stopped_line(lines: list[str]) -> str:
    (line,) = [line for line in lines if '"stopped"' in line]
    return line
