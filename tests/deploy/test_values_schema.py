"""The schema of the chart's values says what the settings say. Needs no helm."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from pathlib import Path

import pytest
import yaml

from deploy.schema.options import DECIDED, DECIDED_OF_ALL, SETTINGS, config_schema, is_decided
from deploy.schema.values import PUBLISHED, values_schema
from tests.conftest import REPOSITORY


def test_the_published_schema_is_that_of_the_settings():
    assert PUBLISHED.read_text() == values_schema(), "run make schema"


def test_the_chart_is_of_this_version():
    chart = yaml.safe_load(PUBLISHED.with_name("Chart.yaml").read_text())
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == chart["version"] == version


@pytest.mark.parametrize("tier", SETTINGS)
def test_every_option_is_either_the_charts_or_the_operators(tier: str):
    options = {field.name for field in dataclasses.fields(SETTINGS[tier])}
    types_of = typing.get_type_hints(SETTINGS[tier])
    decided = {name for name in options if is_decided(tier, name, types_of[name])}
    assert DECIDED[tier] | DECIDED_OF_ALL <= decided, "they are named as they are in the settings"
    assert decided | set(config_schema(tier)["properties"]) == options
    assert not decided & set(config_schema(tier)["properties"])


@pytest.mark.parametrize("tier", SETTINGS)
def test_no_file_and_no_port_is_the_operators(tier: str):
    types_of = typing.get_type_hints(SETTINGS[tier])
    for name in config_schema(tier)["properties"]:
        assert not name.endswith("port")
        assert Path not in (types_of[name], *typing.get_args(types_of[name]))


def test_the_bounds_of_an_option_are_those_of_its_settings():
    options = config_schema("gateway")["properties"]
    assert (options["max_queue"]["minimum"], options["max_queue"]["maximum"]) == (0, 100_000)
    assert options["ageing_seconds"]["type"] == "number"
    assert options["model_alias"] == {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "description": options["model_alias"]["description"],
    }
    assert config_schema("worker")["properties"]["engine"]["enum"] == ["transformers", "fake", "scripted"]


def test_no_number_is_larger_than_helm_can_read_exactly():
    assert config_schema("worker")["properties"]["seed"]["maximum"] == 2**53


def test_every_object_whose_keys_are_named_has_no_others():
    def objects(part: object) -> typing.Iterator[dict[str, typing.Any]]:
        for one in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from objects(one)
        if isinstance(part, dict) and part.get("type") == "object" and "properties" in part:
            yield part

    found = list(objects(json.loads(values_schema())))
    assert len(found) > 30
    assert all(one["additionalProperties"] is False for one in found)
