"""Ports and probes are those that the services' code knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from cli.local_stack import Ports
from deploy.schema.options import SETTINGS
from rpc.health import LIVENESS, READINESS, Health
from rpc.metrics_port import MetricsApp
from tests.deploy.chart.rendering import VALUES, render

if TYPE_CHECKING:
    from tests.deploy.chart.rendering import Deployment, Rendered

METRICS_PORTS = {"gateway": 9091, "tokenizer": 9092, "worker": 9093}  # docs/metrics.md
PATHS = {"/health": LIVENESS, "/ready": READINESS}


def speaks_tls(deployment: Deployment) -> bool:
    return "--ssl-certfile" in deployment.arguments


def asked(probe: dict[str, object]) -> str:
    """The state of health that a probe asks for."""
    match probe:
        case {"grpc": {"service": str() as name}}:
            return name
        case {"httpGet": {"path": str() as path}}:
            return PATHS[path]
    raise AssertionError(f"{probe} asks nothing")


def test_containers_listen_on_the_ports_that_they_say(rendered: Rendered):
    for deployment in rendered.deployments:
        settings = SETTINGS[deployment.tier]
        expected = {"grpc": settings.__dataclass_fields__["port"].default, "metrics": METRICS_PORTS[deployment.tier]}
        arguments = {"grpc": "--port", "metrics": "--metrics-port"}
        if "--http-port" in deployment.arguments:
            expected["http"], arguments["http"] = Ports().http, "--http-port"
        assert deployment.ports == expected
        for name, flag in arguments.items():
            assert deployment.arguments[flag] == [str(expected[name])]


def test_services_lead_to_ports_that_there_are(rendered: Rendered):
    for service in rendered.of("Service"):
        tier = service["spec"]["selector"]["app.kubernetes.io/component"]
        for deployment in rendered.tier(tier):
            for port in service["spec"]["ports"]:
                assert deployment.ports[port["name"]] == port["targetPort"]


def test_the_gateway_asks_for_names_and_ports_of_headless_services(rendered: Rendered):
    (gateway,) = rendered.tier("gateway")
    for flag in ("--tokenizer", "--worker"):
        (target,) = gateway.arguments[flag]
        kind, name, port = target.split(":")
        (service,) = [one for one in rendered.of("Service") if one["metadata"]["name"] == name]
        assert kind == "dns"
        assert service["spec"]["clusterIP"] == "None"
        assert [one["port"] for one in service["spec"]["ports"]] == [int(port)], "its pods are asked, not the service"
        assert [one["targetPort"] for one in service["spec"]["ports"]] == [int(port)]


def test_probes_ask_for_what_services_say_of_themselves(rendered: Rendered):
    known = Health("a.service")._states.keys()
    for deployment in rendered.deployments:
        started = LIVENESS if deployment.tier == "gateway" else READINESS
        states = {name: asked(probe) for name, probe in deployment.probes.items()}
        assert states == {"startup": started, "readiness": READINESS, "liveness": LIVENESS}
        assert set(states.values()) <= known


def test_probes_speak_no_tls_to_ports_by_number(rendered: Rendered):
    for deployment in rendered.deployments:
        for probe in deployment.probes.values():
            if speaks_tls(deployment):
                assert probe["httpGet"]["port"] == deployment.ports["metrics"]
                assert "scheme" not in probe["httpGet"]
            else:
                assert probe["grpc"]["port"] == deployment.ports["grpc"]


@pytest.mark.parametrize("path", PATHS)
def test_the_port_of_metrics_has_the_paths_of_probes(path: str):
    app = MetricsApp(CollectorRegistry(), Health("a.service"))
    status, _, _ = app._answer("GET", path)
    assert status == (200 if PATHS[path] == LIVENESS else 503)


def test_a_service_may_take_as_long_to_start_as_its_values_say():
    values = {"worker": {"probes": {"startup": {"periodSeconds": 7, "withinSeconds": 100}}}}
    (worker,) = render(values).tier("worker")
    startup = worker.probes["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 105
    assert worker.spec["progressDeadlineSeconds"] > 100 + worker.pod["terminationGracePeriodSeconds"]


def test_what_hangs_is_not_given_the_grace_of_what_ends(rendered: Rendered):
    for deployment in rendered.deployments:
        assert deployment.probes["liveness"]["terminationGracePeriodSeconds"] == 30
        assert deployment.probes["startup"]["terminationGracePeriodSeconds"] == 30


def test_the_values_of_this_test_have_tls_and_have_none():
    known = {speaks_tls(one) for values in VALUES.values() for one in render(values).deployments}
    assert known == {True, False}
