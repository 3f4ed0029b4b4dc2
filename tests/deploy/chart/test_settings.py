"""What a pod is started with, the services take; and its settings are those of the values, to the digit."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.schema.options import SETTINGS, config_schema
from rpc.option_values import parse_value
from rpc.settings import ServiceSettings, load_settings
from tests.deploy.chart.rendering import CONFIG_FILE, render

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.chart.rendering import Deployment, Rendered


def load(deployment: Deployment, folder: Path) -> ServiceSettings:
    """The settings of its container."""
    file = folder / "config.toml"
    file.write_text(deployment.config)
    arguments = [argument.replace(CONFIG_FILE, str(file)) for argument in deployment.container["args"]]
    return load_settings(SETTINGS[deployment.tier], deployment.tier, arguments, {})


def test_every_container_starts_with_settings_that_its_service_takes(rendered: Rendered, tmp_path: Path):
    for deployment in rendered.deployments:
        loaded = load(deployment, tmp_path)
        assert loaded.log_format == "json"
        assert loaded.host in {"0.0.0.0", "::"}
        assert loaded.metrics_port


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


def value_of(option: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema lets through."""
    match option:
        case {"enum": list(values)}:
            return st.sampled_from(values)
        case {"anyOf": [number, _]}:
            # The schema cannot tell how large a text is; these are within the bounds of every option.
            texts = st.builds("{}{}".format, st.integers(1, 15), st.sampled_from(["", "KiB", "MiB", "KB", "MB"]))
            return st.one_of(value_of({**number, "maximum": min(number["maximum"], 15_000_000)}), texts)
        case {"type": "array", "items": items}:
            return st.lists(value_of(items), max_size=3)
        case {"type": "integer" | "number" as kind}:
            make: Any = {"integer": st.integers, "number": st.floats}[kind]
            return make(option.get("minimum", 0), option["maximum"])  # type: ignore[no-any-return]
    return {"boolean": st.booleans(), "string": TEXTS}[option["type"]]


def configs(tier: str) -> st.SearchStrategy[dict[str, Any]]:
    options = config_schema(tier)["properties"]
    return st.fixed_dictionaries({}, optional={name: value_of(option) for name, option in options.items()})


# Not made smaller, as each try is a run of helm.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


@settings(max_examples=40, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({tier: configs(tier) for tier in SETTINGS}))
def test_what_the_values_say_the_services_read(tmp_path: Path, config: dict[str, dict[str, Any]]):
    rendered = render({tier: {"config": options} for tier, options in config.items()})
    for tier, options in config.items():
        (deployment,) = rendered.tier(tier)
        loaded = load(deployment, tmp_path)
        types_of = typing.get_type_hints(SETTINGS[tier])
        fields = {field.name: field for field in dataclasses.fields(SETTINGS[tier])}
        for name, value in options.items():
            expected = parse_value(value, types_of[name], size=fields[name].metadata["size"])
            assert getattr(loaded, name) == expected, name


TAKEN_BACK = {"enable_prefix_caching": (True, False), "bnb_int8_threshold": (6, 0), "seed": (7, 0)}


@pytest.mark.parametrize("option", TAKEN_BACK)
def test_a_model_may_take_back_what_holds_for_all(tmp_path: Path, option: str):
    for_all, own = TAKEN_BACK[option]
    models = [{"name": "a", "config": {option: own}}, {"name": "b"}]
    workers = render({"worker": {"config": {option: for_all}}, "models": models}).tier("worker")
    assert [getattr(load(worker, tmp_path), option) for worker in workers] == [own, for_all]


def test_a_model_may_have_less_than_the_others():
    worker = {"runtimeClassName": "nvidia", "gpu": {"count": 1}, "nodeSelector": {"gpu": "a"}, "topologySpread": []}
    models = [{"name": "a", "runtimeClassName": "", "gpu": {"count": 0}, "nodeSelector": {"zone": "b"}}]
    (own,) = render({"worker": worker, "models": models}).tier("worker")
    assert "runtimeClassName" not in own.pod
    assert own.arguments["--device"] == ["cpu"]
    assert own.pod["nodeSelector"] == {"gpu": "a", "zone": "b"}, "maps are merged"


def test_other_settings_are_other_pods():
    def checksums(**values: Any) -> dict[str, str]:
        deployments = render(values).deployments
        return {one.tier: one.spec["template"]["metadata"]["annotations"]["checksum/config"] for one in deployments}

    before, after = checksums(), checksums(gateway={"config": {"max_queue": 7}})
    assert {tier for tier in before if before[tier] != after[tier]} == {"gateway"}
