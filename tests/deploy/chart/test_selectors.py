"""Whatever selects pods selects those that it is for, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.deploy.chart.rendering import selects

if TYPE_CHECKING:
    from tests.deploy.chart.rendering import Rendered


def selected(rendered: Rendered, selector: dict[str, Any]) -> set[str]:
    return {one.name for one in rendered.deployments if selects(selector, one.pod_labels)}


def names(rendered: Rendered, *tiers: str) -> set[str]:
    return {one.name for one in rendered.deployments if not tiers or one.tier in tiers}


def test_a_deployment_has_its_own_pods_and_no_others(rendered: Rendered):
    for deployment in rendered.deployments:
        assert selected(rendered, deployment.spec["selector"]) == {deployment.name}


def test_a_service_has_the_pods_of_its_tier(rendered: Rendered):
    services = {one["metadata"]["name"]: one["spec"]["selector"] for one in rendered.of("Service")}
    for tier in ("gateway", "tokenizer", "worker"):
        assert selected(rendered, {"matchLabels": services.pop(f"tokenmill-{tier}")}) == names(rendered, tier)
    assert not services


def test_a_disruption_budget_and_an_autoscaler_are_of_the_deployment_of_their_name(rendered: Rendered):
    for budget in rendered.of("PodDisruptionBudget"):
        assert selected(rendered, budget["spec"]["selector"]) == {budget["metadata"]["name"]}
    for scaler in (*rendered.of("HorizontalPodAutoscaler"), *rendered.of("ScaledObject")):
        assert scaler["spec"]["scaleTargetRef"]["name"] == scaler["metadata"]["name"]
        assert scaler["metadata"]["name"] in names(rendered)


def test_the_spread_of_a_deployment_counts_its_own_pods(rendered: Rendered):
    for deployment in rendered.deployments:
        for spread in deployment.pod.get("topologySpreadConstraints", []):
            assert selected(rendered, spread["labelSelector"]) == {deployment.name}


def test_all_pods_are_monitored_at_a_port_that_they_have(rendered: Rendered):
    for monitor in rendered.of("PodMonitor"):
        assert selected(rendered, monitor["spec"]["selector"]) == names(rendered)
        ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        assert all(ports <= deployment.ports.keys() for deployment in rendered.deployments)


def test_routes_lead_to_ports_of_the_gateway(rendered: Rendered):
    service = rendered.one("Service", "-gateway")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    for kind, port in (("GRPCRoute", "grpc"), ("HTTPRoute", "http")):
        for route in rendered.of(kind):
            (rule,) = route["spec"]["rules"]
            assert rule["backendRefs"] == [{"name": "tokenmill-gateway", "port": ports[port]}]
    for ingress in rendered.of("Ingress"):
        (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
        backend = path["backend"]["service"]
        assert (backend["name"], backend["port"]["name"] in ports) == ("tokenmill-gateway", True)


def test_names_fit(rendered: Rendered):
    for one in rendered.objects:
        assert len(one["metadata"]["name"]) <= 63
