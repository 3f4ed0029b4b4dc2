"""Every pod of a release is replaced, by the chart's own timings, while callers ask without a pause: none fails.

Callers are plain clients of the gateway's one address, of gRPC and of HTTP. As with a Kubernetes service, a connection
of theirs stays with the pod that it was given, ready or not, until the pod ends it; and they ask nothing a second time.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.deploy.chart.http_traffic import HttpTraffic
from tests.deploy.chart.release import MTLS, installed
from tests.deploy.chart.rendering import render
from tests.end_to_end.stack import NAME
from tests.faults.callers import Traffic
from tests.faults.matrix import COMPLETED
from tests.faults.rules import violations
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.chart.cluster import Cluster

SCRIPT = {"seconds_per_step": 0.01, "seconds_per_token": 0.0005}
CONNECTIONS, CALLERS, MOST_TOKENS = 6, 16, 200
HTTP_CALLERS, MOST_TOKENS_OVER_HTTP = 8, 40
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


WAYS = [
    pytest.param(SHORT, id="short"),
    pytest.param({**SHORT, "tls": {"internal": MTLS}}, id="short, with mTLS"),
    pytest.param({}, id="as it comes", marks=pytest.mark.slow),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("values", WAYS)
async def test_all_pods_are_replaced_and_no_call_fails(tmp_path: Path, values: dict[str, Any]):
    async with installed(render({**ANY, **values}), tmp_path, SCRIPT) as release:
        callers = Callers(release.cluster.grpc.address)
        traffic = Traffic(callers, MOST_TOKENS)  # type: ignore[arg-type]  # as good as gateways that are watched
        over_http = HttpTraffic(release.cluster.http.address, NAME, MOST_TOKENS_OVER_HTTP)
        before = set(release.cluster.pods)
        async with traffic.of(CALLERS), over_http.of(HTTP_CALLERS):
            await release.restart()
        for channel in callers.channels:
            await channel.close()
        check(release.cluster, traffic)
        print(f"over HTTP: {dict(over_http.seen)}")
        assert set(over_http.seen) == {"200"}
        assert {pod for pod in release.cluster.pods if pod.is_gone} == before


def check(running: Cluster, traffic: Traffic) -> None:
    replaced = [pod for pod in running.pods if pod.is_gone]
    ended = {pod: int(json.loads(stopped_line(pod.process.lines))["ended_calls"]) for pod in replaced}
    broken_off = {tier: sum(calls for pod, calls in ended.items() if pod.deployment.tier == tier) for tier in TIERS}
    silence = max(history.longest_silence for history in traffic.histories)
    print(
        f"\n{len(replaced)} pods replaced under {len(traffic.histories)} calls, {traffic.retries} of them asked again, "
        f"{silence:.1f} s without a word; broken off: {broken_off}"
    )
    assert not [pod.deployment.name for pod in running.pods if pod.was_killed]
    assert not violations(traffic.histories)
    assert {history.outcome for history in traffic.histories} == {COMPLETED}
    assert traffic.retries == 0
    assert broken_off["gateway"] == broken_off["tokenizer"] == 0


TIERS = ("gateway", "tokenizer", "worker")


def stopped_line(lines: list[str]) -> str:
    (line,) = [line for line in lines if '"stopped"' in line]
    return line
