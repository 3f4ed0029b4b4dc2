"""The time to end in: what Kubernetes gives is never less than what a service may take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway.settings import GatewaySettings
from rpc.http_server import CLOSE_SECONDS
from rpc.lifecycle import TAKE_IN_SECONDS
from rpc.running_calls import CLEAN_UP_SECONDS
from tests.deploy.chart.rendering import Deployment, Rendered, render

TIERS = ("gateway", "tokenizer", "worker")
# After the grace: it takes in what has come, twice; gives up what is left, and its own tasks; closes two HTTP ports.
CLOSING_SECONDS = 2 * TAKE_IN_SECONDS + 2 * CLEAN_UP_SECONDS + 2 * CLOSE_SECONDS

drains = st.fixed_dictionaries(
    {
        "preStopSleepSeconds": st.integers(0, 600),
        "drainSeconds": st.floats(0, 600).map(lambda seconds: round(seconds, 3)),
        "graceSeconds": st.one_of(st.integers(0, 86400), st.floats(0, 86400).map(lambda seconds: round(seconds, 2))),
    }
)


def sleep_seconds(deployment: Deployment) -> float:
    lifecycle = deployment.container.get("lifecycle")
    return float(lifecycle["preStop"]["sleep"]["seconds"]) if lifecycle else 0.0


def check(deployment: Deployment) -> None:
    (drain,), (grace,) = deployment.arguments["--drain-seconds"], deployment.arguments["--grace-seconds"]
    needed = sleep_seconds(deployment) + float(drain) + float(grace) + CLOSING_SECONDS
    given_seconds = deployment.pod["terminationGracePeriodSeconds"]
    assert needed <= given_seconds < needed + 1


def test_the_grace_of_a_pod_is_enough(rendered: Rendered):
    for deployment in rendered.deployments:
        check(deployment)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.fixed_dictionaries(dict.fromkeys(TIERS, drains)))
def test_the_grace_of_a_pod_is_enough_whatever_the_values(values: dict[str, dict[str, Any]]):
    rendered = render({tier: {"drain": drain} for tier, drain in values.items()})
    for tier, drain in values.items():
        (deployment,) = rendered.tier(tier)
        check(deployment)
        assert sleep_seconds(deployment) == drain["preStopSleepSeconds"]
        assert float(*deployment.arguments["--drain-seconds"]) == pytest.approx(drain["drainSeconds"])
        assert float(*deployment.arguments["--grace-seconds"]) == pytest.approx(drain["graceSeconds"])


def test_a_gateway_gives_answers_as_long_as_a_call_has_by_default():
    (gateway,) = render().tier("gateway")
    default = GatewaySettings.__dataclass_fields__["default_deadline_seconds"].default
    assert float(*gateway.arguments["--grace-seconds"]) >= default


def test_connections_leave_a_gateway_before_it_stops_to_take_calls(rendered: Rendered):
    (gateway,) = rendered.tier("gateway")
    left_out = sleep_seconds(gateway) + float(*gateway.arguments["--drain-seconds"])
    age = float(*gateway.arguments["--max-connection-age-seconds"])
    assert age * 1.1 < left_out, "the library gives or takes a tenth"
    assert age == left_out / 2


def test_without_a_drain_connections_have_no_age():
    drain = {"preStopSleepSeconds": 0, "drainSeconds": 0}
    (gateway,) = render({"gateway": {"drain": drain}}).tier("gateway")
    assert "--max-connection-age-seconds" not in gateway.arguments


def test_without_a_sleep_there_is_no_hook():
    (gateway,) = render({"gateway": {"drain": {"preStopSleepSeconds": 0}}}).tier("gateway")
    assert "lifecycle" not in gateway.container
