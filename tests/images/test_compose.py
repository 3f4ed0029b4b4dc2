"""compose.yaml against the code: options exist, ports meet, and what is inside stays inside."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings
from rpc.settings import ServiceSettings, load_settings
from tests.conftest import REPOSITORY
from tests.images.containerfile import environment
from tests.images.test_containerfiles import METRICS, SERVICES

DEPLOY = REPOSITORY / "deploy"
VERSION = re.search(r'^version = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)


def read(name: str) -> dict[str, Any]:
    """A file as the engine has it where no variable is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / name).read_text(encoding="utf-8"))
    assert "$" not in text
    return dict(yaml.safe_load(text))


COMPOSE = read("compose.yaml")
GPU = read("compose.gpu.yaml")


def settings_of(service: str) -> ServiceSettings:
    module, settings, _ = SERVICES[service]
    described = COMPOSE["services"][service]
    variables = environment(service) | described.get("environment", {})
    return load_settings(settings, module, described["command"], variables)


def test_the_services_are_the_images():
    assert COMPOSE["services"].keys() == SERVICES.keys()
    assert VERSION
    images = {name: service["image"] for name, service in COMPOSE["services"].items()}
    assert images == {
        "gateway": f"tokenmill-gateway:{VERSION[1]}",
        "tokenizer": f"tokenmill-tokenizer:{VERSION[1]}",
        "worker": f"tokenmill-worker:{VERSION[1]}-cpu",
    }
    assert GPU["services"]["worker"]["image"] == f"tokenmill-worker:{VERSION[1]}-cuda"
    assert GPU["services"].keys() == {"worker"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_option_exists_and_ports_are_the_usual_ones(service):
    settings = settings_of(service)
    assert settings.metrics_port == METRICS[service]
    assert settings.host == "0.0.0.0"


def test_the_gateway_looks_for_the_others_where_they_are():
    settings = settings_of("gateway")
    assert isinstance(settings, GatewaySettings)
    assert settings.tokenizer == (f"dns:tokenizer:{settings_of('tokenizer').port}",)
    assert settings.worker == (f"dns:worker:{settings_of('worker').port}",)


def test_callers_reach_the_gateway_alone_and_from_this_machine_unless_told_otherwise():
    services = COMPOSE["services"]
    settings = settings_of("gateway")
    assert isinstance(settings, GatewaySettings)
    assert services["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in (settings.port, settings.http_port)]
    for name in ("tokenizer", "worker"):
        assert "ports" not in services[name]
        assert services[name]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_do_no_more_than_it_has_to(service):
    described = COMPOSE["services"][service]
    assert described["read_only"] is True
    assert described["user"] == "10001:10001"
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert not described.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices"}
    assert [mount.partition(":")[0] for mount in described["tmpfs"]] == ["/tmp"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_given_the_time_to_end(service):
    settings = settings_of(service)
    given = float(COMPOSE["services"][service]["stop_grace_period"].removesuffix("s"))
    assert given > settings.drain_seconds + settings.grace_seconds + 5  # to clean up


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_asked_for_where_the_service_listens(service):
    test = COMPOSE["services"][service]["healthcheck"]["test"]
    assert test == ["CMD", "tokenmill", "health", f"127.0.0.1:{settings_of(service).port}"]


@pytest.mark.parametrize("service", ["tokenizer", "worker"])
def test_models_cannot_be_written_and_are_never_made_up(service):
    [models, *others] = COMPOSE["services"][service]["volumes"]
    assert (models["type"], models["target"], models["read_only"]) == ("bind", "/models", True)
    assert models["bind"] == {"create_host_path": False}
    kept = [{"type": "volume", "source": "compiled", "target": "/var/cache/tokenmill"}]
    assert others == (kept if service == "worker" else [])


def test_a_gpu_is_asked_for_by_number():
    [device] = GPU["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "1", "capabilities": ["gpu"]}
