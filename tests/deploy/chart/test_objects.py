"""What the values ask for is in the objects."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.deploy.chart.rendering import CHART, NAMESPACE, VALUES, notes, render

if TYPE_CHECKING:
    from tests.deploy.chart.rendering import Rendered

SCALED = {"enabled": True, "prometheusAddress": "http://prometheus:9090"}


def test_there_is_a_worker_deployment_for_every_model():
    models = [{"name": "a"}, {"name": "b", "servedName": "org/B", "path": "b/v1"}]
    rendered = render({"models": models})
    served = {
        one.name: (one.arguments["--model"], one.arguments["--served-model-name"]) for one in rendered.tier("worker")
    }
    assert served == {
        "tokenmill-worker-a": (["/models/a"], ["a"]),
        "tokenmill-worker-b": (["/models/b/b/v1"], ["org/B"]),
    }
    (tokenizer,) = rendered.tier("tokenizer")
    assert tokenizer.arguments["--model"] == ["a=/models/a", "org/B=/models/b/b/v1"]


def test_gateways_go_on_as_they_are_when_a_model_is_added():
    before, after = (render({"models": [{"name": name} for name in names]}) for names in ("a", "ab"))
    assert before.tier("gateway")[0].spec == after.tier("gateway")[0].spec
    assert before.tier("tokenizer")[0].spec != after.tier("tokenizer")[0].spec


def test_adapters_are_in_their_models_storage():
    adapters = [{"name": "sql", "path": "adapters/sql"}]
    (worker,) = render({"models": [{"name": "a", "adapters": adapters}]}).tier("worker")
    assert worker.arguments["--lora-modules"] == ["sql=/models/a/adapters/sql"]


@pytest.mark.parametrize(
    ("count", "device", "device_map"), [(0, "cpu", None), (1, "cuda", None), (4, "cuda", ["auto"])]
)
def test_a_worker_runs_on_the_gpus_that_it_asks_for(count: int, device: str, device_map: list[str] | None):
    (worker,) = render({"models": [{"name": "a", "gpu": {"count": count}}]}).tier("worker")
    assert worker.arguments["--device"] == [device]
    assert worker.arguments.get("--device-map") == device_map
    assert worker.container["resources"]["limits"].get("nvidia.com/gpu", 0) == count
    assert worker.container["resources"]["limits"]["memory"] == "8Gi"


def test_shared_memory_is_what_was_asked_for(rendered: Rendered):
    for worker in rendered.tier("worker"):
        (shm,) = [volume["emptyDir"] for volume in worker.pod["volumes"] if volume["name"] == "shm"]
        assert shm["medium"] == "Memory"


@pytest.mark.parametrize("tier", ["gateway", "tokenizer"])
def test_whoever_scales_a_tier_alone_says_how_many(tier: str):
    for enabled in (True, False):
        rendered = render({tier: {"autoscaling": {"enabled": enabled}}})
        (deployment,) = rendered.tier(tier)
        assert ("replicas" in deployment.spec) is not enabled
        assert len(rendered.of("HorizontalPodAutoscaler")) == enabled


def test_keda_scales_the_workers_of_a_model_by_what_waits_for_it():
    rendered = render({"models": [{"name": "a", "servedName": "org/A", "autoscaling": SCALED}, {"name": "b"}]})
    (scaler,) = rendered.of("ScaledObject")
    scaled, constant = rendered.tier("worker")
    assert "replicas" not in scaled.spec
    assert constant.spec["replicas"] == 1
    queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    assert queries == [
        'sum(tokenmill_requests_waiting{model_name="org/A"})',
        'sum(vllm:num_requests_running{model_name="org/A"})',
    ]


def test_keda_asks_for_metrics_that_there_are():
    files = [file for package in ("gateway", "model_worker") for file in (REPOSITORY / package).glob("*metrics.py")]
    told = "".join(file.read_text() for file in files)
    (scaler,) = render({"models": [{"name": "a", "autoscaling": SCALED}]}).of("ScaledObject")
    for trigger in scaler["spec"]["triggers"]:
        assert re.findall(r"[a-z_]+:?[a-z_]+(?={)", trigger["metadata"]["query"])[0] in told


def test_keda_counts_its_own_namespace_where_that_is_known():
    values = {"models": [{"name": "a", "autoscaling": SCALED}], "monitoring": {"podMonitor": {"enabled": True}}}
    (scaler,) = render(values).of("ScaledObject")
    for trigger in scaler["spec"]["triggers"]:
        assert f'{{namespace="{NAMESPACE}",model_name="a"}}' in trigger["metadata"]["query"]


def test_alerts_and_dashboard_are_those_of_their_files():
    rendered = render(VALUES["every-object"])
    rules, dashboard = CHART / "files" / "tokenmill.rules.yaml", CHART / "files" / "dashboard.json"
    assert [one["spec"] for one in rendered.of("PrometheusRule")] == [
        yaml.safe_load(file.read_text()) for file in [rules] if file.exists()
    ]
    found = [one["data"]["tokenmill.json"] for one in rendered.of("ConfigMap") if "tokenmill.json" in one["data"]]
    assert [json.loads(text) for text in found] == [
        json.loads(file.read_text()) for file in [dashboard] if file.exists()
    ]


IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "as it comes": ({}, "tokenmill-gateway:0.1.0"),
    "a tag for all": ({"images": {"tag": "7"}}, "tokenmill-gateway:7"),
    "a registry": ({"images": {"registry": "r.example:5000/a"}}, "r.example:5000/a/tokenmill-gateway:0.1.0"),
    "a tag": ({"images": {"tag": "7"}, "gateway": {"image": {"tag": "8"}}}, "tokenmill-gateway:8"),
    "a digest": (
        {"gateway": {"image": {"tag": "8", "digest": f"sha256:{'0' * 64}"}}},
        f"tokenmill-gateway@sha256:{'0' * 64}",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_named_as_the_values_say(name: str):
    values, image = IMAGES[name]
    (gateway,) = render(values).tier("gateway")
    assert gateway.container["image"] == image


def test_a_worker_has_the_image_for_what_it_runs_on():
    models = [{"name": "a"}, {"name": "b", "gpu": {"count": 1}}, {"name": "c", "image": {"tag": "mine"}}]
    images = [worker.container["image"] for worker in render({"models": models}).tier("worker")]
    assert images == ["tokenmill-worker:0.1.0-cpu", "tokenmill-worker:0.1.0-cuda", "tokenmill-worker:mine"]


def test_links_to_runbooks_get_their_address():
    values = {"monitoring": {"rules": {"enabled": True, "runbooks": "https://git.example/tokenmill/"}}}
    for rules in render(values).of("PrometheusRule"):
        alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        links = [alert["annotations"]["runbook_url"] for alert in alerts]
        assert links
        assert all(link.startswith("https://git.example/tokenmill/docs/runbooks/") for link in links)


def test_a_budget_never_keeps_a_node_from_being_emptied(rendered: Rendered):
    for budget in rendered.of("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", VALUES)
def test_whoever_installs_it_is_told_what_pods_wait_for(name: str):
    told = notes(VALUES[name])
    for deployment in render(VALUES[name]).deployments:
        for volume in deployment.pod["volumes"]:
            match volume:
                case {"secret": {"secretName": secret}}:
                    assert secret in told
                case {"name": str() as own, **source} if own.startswith("model-"):
                    (described,) = source.values()
                    (where,) = (described[key] for key in ("claimName", "path", "reference") if key in described)
                    assert where in told
    assert ("anonymous is true" in told) == ("enabled is false" in told) == (name == "plain")
