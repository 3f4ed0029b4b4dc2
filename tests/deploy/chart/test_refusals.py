"""What is wrong is refused when the chart is rendered, by name."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.schema.options import DECIDED, DECIDED_OF_ALL
from tests.deploy.chart.rendering import refusal, render

MTLS = {
    "enabled": True,
    "gatewaySecretName": "gateway",
    "tokenizerSecretName": "tokenizer",
    "workerSecretName": "worker",
    "serverName": "backend.example",
    "gatewayNames": ["gateway.example"],
}
WRONG_KEYS: dict[str, dict[str, Any]] = {
    "'gatway'": {"gatway": {}},
    "'replica'": {"gateway": {"replica": 2}},
    "'max_num_seq'": {"worker": {"config": {"max_num_seq": 8}}},
    "'max-num-seqs'": {"worker": {"config": {"max-num-seqs": 8}}},
    "'max_num_seqs'": {"gateway": {"config": {"max_num_seqs": 8}}},
    "'gpus'": {"models": [{"name": "a", "gpus": 1}]},
    "'preStopSeconds'": {"gateway": {"drain": {"preStopSeconds": 1}}},
    "'nfs'": {"modelStorage": {"nfs": {"server": "nfs"}}},
    "'http'": {"tokenizer": {"http": {"enabled": True}}},
}


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_key_that_there_is_not(key: str):
    assert f"{key} not allowed" in refusal(WRONG_KEYS[key])


DECIDED_OPTIONS = [(tier, option) for tier, options in DECIDED.items() for option in sorted(options | DECIDED_OF_ALL)]
FILES_AND_PORTS = [
    ("gateway", "http_port"),
    ("gateway", "api_key_file"),
    ("tokenizer", "ssl_keyfile"),
    ("worker", "port"),
    ("worker", "metrics_port"),
    ("worker", "compile_cache"),
    ("worker", "otlp_traces_endpoint"),
]


@pytest.mark.parametrize(("tier", "option"), [*DECIDED_OPTIONS, *FILES_AND_PORTS])
def test_an_option_that_the_chart_decides(tier: str, option: str):
    assert f"'{option}' not allowed" in refusal({tier: {"config": {option: "x"}}})


WRONG_VALUES: dict[str, dict[str, Any]] = {
    "/gateway/config/max_queue": {"gateway": {"config": {"max_queue": "many"}}},
    "/gateway/config/ageing_seconds": {"gateway": {"config": {"ageing_seconds": 0}}},
    "/worker/config/quantization": {"worker": {"config": {"quantization": "int7"}}},
    "/worker/config/kv_cache_memory": {"worker": {"config": {"kv_cache_memory": "4 gigabytes"}}},
    "/models/0/config/max_num_seqs": {"models": [{"name": "a", "config": {"max_num_seqs": 0}}]},
    "/models/0/name": {"models": [{"name": "Qwen/Qwen2.5"}]},
    "/models/0/path": {"models": [{"name": "a", "path": "../other"}]},
    "/models/0/servedName": {"models": [{"name": "a", "servedName": "a=b"}]},
    "/models/0": {"models": [{"path": "a"}]},
    "/models": {"models": []},
    "/modelStorage": {"modelStorage": {"hostPath": {"path": "/a"}, "persistentVolumeClaim": {"claimName": "a"}}},
    "/worker/autoscaling/minReplicas": {"worker": {"autoscaling": {"minReplicas": 0}}},
    "/listenAddress": {"listenAddress": "127.0.0.1"},
    "/gateway/drain/preStopSleepSeconds": {"gateway": {"drain": {"preStopSleepSeconds": 0.5}}},
    "/routes/grpc/parentRefs": {"routes": {"grpc": {"enabled": True}}},
}


@pytest.mark.parametrize("place", WRONG_VALUES)
def test_a_value_that_cannot_be(place: str):
    assert f"at '{place}'" in refusal(WRONG_VALUES[place])


WHAT_DOES_NOT_FIT: dict[str, dict[str, Any]] = {
    "access: name a secret in apiKeys or jwt": {"access": {"apiKeys": {"secretName": ""}}},
    "access.anonymous: with apiKeys or jwt": {"access": {"anonymous": True}},
    "access.jwt: issuer and audience": {"access": {"jwt": {"secretName": "jwks", "issuer": "https://issuer"}}},
    "tls.gateway: clientCa and clientNames": {"tls": {"gateway": {"clientCa": True}}},
    "tls.gateway.clientNames": {"tls": {"gateway": {"secretName": "a", "clientNames": ["b"]}}},
    "models: object a: the name is given twice": {"models": [{"name": "a"}, {"name": "a", "servedName": "b"}]},
    "models: model a: the name is given twice": {"models": [{"name": "a"}, {"name": "b", "servedName": "a"}]},
    "models: model sql: the name is given twice": {
        "models": [{"name": "sql"}, {"name": "b", "adapters": [{"name": "sql", "path": "sql"}]}]
    },
    "models: a: autoscaling needs prometheusAddress": {"models": [{"name": "a", "autoscaling": {"enabled": True}}]},
    "gateway: rollout": {"gateway": {"rollout": {"maxSurge": 0}}},
    "models: a: rollout": {"models": [{"name": "a", "rollout": {"maxSurge": 0}}]},
}


@pytest.mark.parametrize("why", WHAT_DOES_NOT_FIT)
def test_values_that_do_not_fit_each_other(why: str):
    assert why in refusal(WHAT_DOES_NOT_FIT[why])


@pytest.mark.parametrize("missing", [key for key in MTLS if key != "enabled"])
def test_mtls_by_half(missing: str):
    internal = {**MTLS, missing: [] if missing == "gatewayNames" else ""}
    assert "tls.internal: needs" in refusal({"tls": {"internal": internal}})


def test_mtls_in_full_is_taken():
    assert render({"tls": {"internal": MTLS}}).deployments
