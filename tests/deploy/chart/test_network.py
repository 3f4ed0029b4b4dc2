"""Who reaches whom, when every NetworkPolicy is kept to the letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.chart.rendering import NAMESPACE, VALUES, render, selects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.chart.rendering import Rendered

METRICS_PORTS = {"gateway": 9091, "tokenizer": 9092, "worker": 9093}
PORTS = {50051, 50052, 50053, 8080, 9091, 9092, 9093, 53, 4317, 443, 22}


@dataclass(frozen=True)
class Pod:
    name: str
    namespace: str
    labels: dict[str, str]

    def is_one_of(self, peers: list[dict[str, Any]], namespace: str) -> bool:
        """Whether a list of peers, in a policy of `namespace`, has this pod."""
        return any(self._is(peer, namespace) for peer in peers)

    def _is(self, peer: dict[str, Any], namespace: str) -> bool:
        assert peer, "an empty peer would be nobody"
        assert peer.keys() <= {"podSelector", "namespaceSelector"}
        of_namespace = {"kubernetes.io/metadata.name": self.namespace}
        fits = selects(peer["namespaceSelector"], of_namespace) if "namespaceSelector" in peer else None
        return (self.namespace == namespace if fits is None else fits) and selects(
            peer.get("podSelector", {}), self.labels
        )


OTHERS = [
    Pod("caller", NAMESPACE, {"app": "caller"}),
    Pod("stranger", "elsewhere", {"app": "stranger"}),
    # It calls itself a gateway, elsewhere.
    Pod(
        "impostor",
        "elsewhere",
        {
            "app.kubernetes.io/name": "tokenmill",
            "app.kubernetes.io/instance": "tokenmill",
            "app.kubernetes.io/component": "gateway",
        },
    ),
    Pod("prometheus", "monitoring", {"app": "prometheus"}),
    Pod("dns", "kube-system", {"k8s-app": "kube-dns"}),
    Pod("controller", "kube-system", {"k8s-app": "controller"}),
]


def ways(policies: list[dict[str, Any]], pod: Pod, direction: str, peer: Pod, port: int) -> bool:
    """Whether `pod` may be reached by (Ingress) or reach (Egress) `peer` at `port`."""
    own = [
        policy["spec"]
        for policy in policies
        if pod.namespace == NAMESPACE
        and selects(policy["spec"]["podSelector"], pod.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    word = {"Ingress": "from", "Egress": "to"}[direction]
    return not own or any(
        peer.is_one_of(rule[word], NAMESPACE) and port in {one["port"] for one in rule["ports"]}
        for spec in own
        for rule in spec[direction.lower()]
    )


def let_through(rendered: Rendered) -> Iterator[tuple[str, str, int]]:
    policies = rendered.of("NetworkPolicy")
    ours = [Pod(one.tier, NAMESPACE, one.pod_labels) for one in rendered.deployments]
    for source in ours + OTHERS:
        for target in ours + OTHERS:
            if source is target or (source in OTHERS and target in OTHERS):
                continue
            for port in PORTS:
                goes = ways(policies, source, "Egress", target, port)
                if goes and ways(policies, target, "Ingress", source, port):
                    yield source.name, target.name, port


def expected(*, tracing: bool = False, http: bool = True) -> set[tuple[str, str, int]]:
    links = {("gateway", "tokenizer", 50052), ("gateway", "worker", 50053), ("gateway", "dns", 53)}
    links |= {("caller", "gateway", 50051)} | ({("caller", "gateway", 8080)} if http else set())
    links |= {("prometheus", tier, port) for tier, port in METRICS_PORTS.items()}
    if tracing:
        links |= {(tier, "prometheus", 4317) for tier in METRICS_PORTS}
        links |= {(tier, "dns", 53) for tier in METRICS_PORTS}
    return links


@pytest.mark.parametrize("name", ["default", "one-gpu", "air-gapped"])
def test_the_gateway_reaches_workers_and_tokenizer_services_and_nobody_else_does(name: str):
    assert set(let_through(render(VALUES[name]))) == expected()


def test_traces_go_to_the_collector_alone():
    assert set(let_through(render({"tracing": {"endpoint": "http://collector.monitoring:4317"}}))) == expected(
        tracing=True
    )


def test_a_port_that_is_not_there_is_not_open():
    assert set(let_through(render({"gateway": {"http": {"enabled": False}}}))) == expected(http=False)


def test_nobody_reaches_the_gateway_where_nobody_is_named():
    rendered = render({"networkPolicy": {"gatewayFrom": [], "monitoringFrom": []}})
    assert {target for _, target, _ in let_through(rendered)} == {"tokenizer", "worker", "dns"}


def test_a_port_of_loopback_is_none_of_a_pod(rendered: Rendered):
    for deployment in rendered.deployments:
        assert not [flag for flag in deployment.arguments if "admin" in flag]
