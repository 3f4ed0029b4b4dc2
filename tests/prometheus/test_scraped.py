"""A real Prometheus scrapes a mill that is used: every expression of dashboard and alerts says something.

An alert's says nothing while all is well. Then a unit test for promtool has it fire, and all that it looks at is there.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import yaml

from rpc.metrics import text_of
from tests.end_to_end.stack import NAME
from tests.prometheus.files import RULE_TESTS, RULES, alerts, panel_expressions, records, rules, runbook_queries
from tests.prometheus.mill import OTHER, Mill, mill
from tests.prometheus.prometheus import Prometheus, prometheus, tells

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Of the situation that the mill is in here; the others say nothing, as far as this test cares.
IN_TROUBLE = {
    "TokenmillTargetDown": "a worker has been struck",
    "TokenmillWorkerRefused": "one has another vocabulary",
    "TokenmillRowsFailing": "outputs of three tokens fail",
    "TokenmillRefusing": "bursts are more than may wait",
    "TokenmillCredentialsRefused": "keys are wrong",
    "TokenmillCertificateExpiring": "the test's certificates last for a day",
    "TokenmillErrorsFast": "outputs of three tokens fail",
    "TokenmillErrorsSlow": "outputs of three tokens fail",
}
VARIABLES = {"$namespace": ".*", "$model_name": ".*", "$__rate_interval": "1m"}
SELECTOR = re.compile(r"\b(?:tokenmill|vllm|process)[_:][\w:]+(?:{[^}]*})?|\bup\b")


class Watched:
    """The mill, Prometheus, and traffic that goes on."""

    def __init__(self, mill: Mill, prometheus: Prometheus) -> None:
        self.mill = mill
        self.prometheus = prometheus


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("mill")
    async with mill(folder) as running, prometheus(folder, running.targets) as watching:
        traffic = asyncio.create_task(_for_ever(running))
        try:
            yield Watched(running, watching)
        finally:
            traffic.cancel()
            with suppress(asyncio.CancelledError):
                await traffic


async def _for_ever(running: Mill) -> None:
    while True:
        await running.traffic()


def substituted(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


async def test_every_target_is_scraped(watched: Watched) -> None:
    targets = sum(len(of_job) for of_job in watched.mill.targets.values())

    async def all_up() -> bool:
        return await watched.prometheus.ask("count(up == 1)") == [({}, float(targets))]

    await watched.prometheus.until("all targets are up", all_up)


async def test_every_rule_is_evaluated_without_an_error(watched: Watched) -> None:
    async def all_evaluated() -> bool:
        loaded = await watched.prometheus.rules()
        assert [rule.get("lastError") for rule in loaded if rule.get("lastError")] == []
        return {rule["name"] for rule in loaded} == {*records(), *alerts()} and all(
            rule["health"] == "ok" for rule in loaded
        )

    assert len(rules()) == len(records()) + len(alerts())
    await watched.prometheus.until("all rules are evaluated", all_evaluated)


@pytest.mark.parametrize("where", panel_expressions())
async def test_every_line_of_the_dashboard_has_data(watched: Watched, where: str) -> None:
    expression = substituted(panel_expressions()[where])

    async def has_data() -> bool:
        return tells(await watched.prometheus.ask(expression))

    await watched.prometheus.until(f"{where}: {expression}", has_data)


@pytest.mark.parametrize("query", runbook_queries())
async def test_every_query_of_a_runbook_has_data(watched: Watched, query: str) -> None:
    async def has_data() -> bool:
        return tells(await watched.prometheus.ask(query))

    await watched.prometheus.until(query, has_data)


@pytest.mark.parametrize("name", records())
async def test_every_recording_rule_has_data(watched: Watched, name: str) -> None:
    async def has_data() -> bool:
        return tells(await watched.prometheus.ask(name))

    await watched.prometheus.until(name, has_data)


@pytest.mark.parametrize("name", alerts())
async def test_all_that_an_alert_looks_at_is_there(watched: Watched, name: str) -> None:
    expression = re.sub(r"#.*", "", alerts()[name]["expr"])
    selectors = set(SELECTOR.findall(expression))
    assert selectors
    for selector in selectors:

        async def is_there(selector: str = selector) -> bool:
            return bool(await watched.prometheus.ask(f"last_over_time({selector}[1m])"))

        await watched.prometheus.until(f"{name}: {selector}", is_there)


async def test_a_worker_that_breaks_shows(watched: Watched) -> None:
    """From here on it is down."""
    watched.mill.strike.is_on = True
    target = watched.mill.targets["worker"][1]

    async def shows() -> bool:
        down = await watched.prometheus.ask(f'up{{job="worker", instance="{target}"}} == 0')
        retries = await watched.prometheus.ask('tokenmill_retries_total{tier="worker"} > 0')
        left = await watched.prometheus.ask(f'tokenmill_workers{{model_name="{NAME}", state="ready"}} == 1')
        return bool(down and retries and left)

    await watched.prometheus.until("it is down, its requests went on elsewhere, one is left", shows)


@pytest.mark.parametrize("name", alerts())
async def test_every_alerts_expression_says_something_or_a_unit_test_has_it_fire(watched: Watched, name: str) -> None:
    expression = alerts()[name]["expr"]

    async def has_data() -> bool:
        return bool(await watched.prometheus.ask(expression))

    if name in IN_TROUBLE:
        await watched.prometheus.until(f"{name}: {IN_TROUBLE[name]}", has_data)
    elif not await has_data():
        tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
        expected = [one["exp_alerts"] for test in tests for one in test["alert_rule_test"] if one["alertname"] == name]
        assert any(expected), "and nothing shows that it ever does"


async def test_refused_workers_are_not_ready_ones(watched: Watched) -> None:
    states = {
        labels["state"]: value
        for labels, value in await watched.prometheus.ask(f'tokenmill_workers{{model_name="{OTHER}"}}')
    }
    assert states == {"ready": 1, "refused": 1, "not_ready": 0}


def promtool(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *command], input=text, capture_output=True, text=True, check=False)


async def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    for command in (("check", "rules", str(RULES)), ("test", "rules", str(RULE_TESTS))):
        done = await asyncio.to_thread(promtool, *command)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_promtool_finds_nothing_wrong_with_the_metrics(watched: Watched) -> None:
    """But that vLLM's names have colons, and that its unit of usage is a ratio by the name of a percentage."""
    for server in watched.mill.servers.values():
        done = await asyncio.to_thread(promtool, "check", "metrics", text=text_of(server.registry).decode())
        said = (done.stdout + done.stderr).splitlines()
        assert [line for line in said if line.strip() and not line.startswith("vllm:")] == []
