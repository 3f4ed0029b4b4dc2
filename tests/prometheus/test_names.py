"""Every metric and label that rules and dashboard ask for is one that the real services tell, and is documented."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from model_worker.engine import RowFailure
from model_worker.engines.fake_faults import fail_rows
from rpc.metrics import text_of
from tests.conftest import REPOSITORY
from tests.end_to_end.access import RIGHT_KEY, entry, write_keys
from tests.end_to_end.requests import Stopping, generate
from tests.end_to_end.tls_stack import caller_of, tls_stack
from tests.prometheus.files import alerts, panels, records, runbook_queries
from tests.prometheus.promql import asked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="session")
# What Prometheus adds to what it scrapes; `namespace` is there in Kubernetes.
OF_TARGETS = {"job", "instance", "namespace"}
OF_PROMETHEUS = {"up": set[str]()}
Told = dict[str, dict[str, set[str]]]  # the values of labels, by metric and label


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    """What the three services tell after an answer, a failed output and refusals, with TLS on every hop."""
    folder = tmp_path_factory.mktemp("told")
    keys = write_keys(folder / "keys.json", entry(RIGHT_KEY))
    fails = fail_rows(
        RowFailure("SAMPLING_FAILED", "no"), lambda _, segment: segment.sequence.params.max_new_tokens == 3
    )
    metadata = (("authorization", f"Bearer {RIGHT_KEY}"),)
    async with tls_stack(folder, fails, api_key_file=keys) as stack, caller_of(stack) as gateway:
        await gateway.Generate(generate("The quick brown fox", "one"), metadata=metadata)
        refused = {"model": {"model": "none"}, "row": {"stopping": Stopping(max_new_tokens=3)}}
        for given in refused.values():
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.Generate(generate(**given), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.Generate(generate())
        found: Told = defaultdict(lambda: defaultdict(set))
        for server in (stack.gateway, stack.worker, stack.tokenizer):
            for family in text_string_to_metric_families(text_of(server.registry).decode()):
                for sample in family.samples:
                    for label, value in sample.labels.items():
                        found[sample.name][label].add(value)
                    found[sample.name]  # one without labels
        yield found


def expressions() -> dict[str, str]:
    """By where they stand."""
    found = {f"record {name}": expression for name, expression in records().items()}
    found |= {f"alert {name}": alert["expr"] for name, alert in alerts().items()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']}, {target['refId']}"] = target["expr"]
    return found


def labels_of(metric: str, told: Told) -> set[str]:
    if metric in records():
        return asked(records()[metric]).grouped or {"namespace", "model_name"}
    return set(told[metric]) | OF_TARGETS if metric in told else OF_PROMETHEUS[metric] | OF_TARGETS


async def test_every_metric_that_is_asked_for_is_told(told: Told) -> None:
    known = told.keys() | records().keys() | OF_PROMETHEUS.keys()
    unknown = {where: asked(expression).metrics.keys() - known for where, expression in expressions().items()}
    assert {where: names for where, names in unknown.items() if names} == {}


async def test_every_label_that_is_asked_for_is_the_metrics(told: Told) -> None:
    for where, expression in expressions().items():
        found = asked(expression)
        for metric, labels in found.metrics.items():
            assert labels <= labels_of(metric, told), where
        assert found.grouped <= set().union(*(labels_of(metric, told) for metric in found.metrics)), where


async def test_every_state_tier_and_service_that_is_asked_for_is_told(told: Told) -> None:
    """Others, such as reasons, are told only when they have occurred."""
    for where, expression in expressions().items():
        for metric, label, value in asked(expression).values:
            if label in {"state", "tier", "service", "method", "code"} and "$" not in value:
                assert value in told[metric][label], where


async def test_every_query_of_a_runbook_asks_for_what_is_told(told: Told) -> None:
    for query in runbook_queries():
        for metric, labels in asked(query).metrics.items():
            assert labels <= labels_of(metric, told), query


async def test_the_gateway_tells_of_both_of_its_certificates(told: Told) -> None:
    assert told["tokenmill_certificate_expiry_timestamp_seconds"]["certificate"] == {"server", "client"}


async def test_every_legend_names_labels_that_are_left(told: Told) -> None:
    for panel in panels():
        for target in panel["targets"]:
            found = asked(target["expr"])
            left = found.grouped or set().union(*(labels_of(metric, told) for metric in found.metrics))
            if "group_left" in target["expr"] and "sum by" not in target["expr"]:
                left |= OF_TARGETS
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, panel["title"]


async def test_every_metric_is_documented(told: Told) -> None:
    text = (REPOSITORY / "docs" / "metrics.md").read_text()
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told if not name.startswith("process_")}
    assert {name for name in names if f"`{name}`" not in text} == set()
    documented = set(re.findall(r"`((?:tokenmill|vllm)[_:][\w:]+)`", text))
    assert documented - names - set(records()) == set()
