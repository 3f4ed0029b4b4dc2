"""The whole schema: the chart's own keys (values.schema.yaml), the tiers' options, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.schema.options import SETTINGS, config_schema

OWN_KEYS = Path(__file__).with_name("values.schema.yaml")
PUBLISHED = Path(__file__).parents[1] / "charts" / "tokenmill" / "values.schema.json"


def values_schema() -> str:
    """The text of values.schema.json."""
    schema = yaml.safe_load(OWN_KEYS.read_text(encoding="utf-8"))
    definitions, properties = schema["definitions"], schema["properties"]
    tier, worker, model = (definitions.pop(name) for name in ("tier", "worker", "model"))
    for name in SETTINGS:
        definitions[f"{name}Config"] = config_schema(name)
        properties[name]["properties"].update(tier)
    properties["worker"]["properties"].update(worker)
    definitions["modelEntry"] = {
        "type": "object",
        "required": ["name"],
        "properties": {**model, **tier, **worker},
    }
    _close(schema)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _close(part: Any) -> None:
    """Refuse, in every object whose keys are named, all others."""
    if isinstance(part, list):
        for one in part:
            _close(one)
    elif isinstance(part, dict):
        for one in part.values():
            _close(one)
        if part.get("type") == "object" and "properties" in part:
            part["additionalProperties"] = False
