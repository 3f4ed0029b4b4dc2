"""The files that Prometheus and Grafana get, and what stands in them."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import yaml

from tests.conftest import REPOSITORY

FILES = REPOSITORY / "deploy" / "charts" / "tokenmill" / "files"
RULES, DASHBOARD = FILES / "tokenmill.rules.yaml", FILES / "dashboard.json"
RULE_TESTS = REPOSITORY / "deploy" / "prometheus" / "tokenmill.rules.test.yaml"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


@cache
def rules() -> list[dict[str, Any]]:
    """All of them, in order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """By their names."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def records() -> dict[str, str]:
    """The expressions of recording rules, by their names."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def runbook_queries() -> list[str]:
    """What runbooks have a person ask Prometheus."""
    texts = [path.read_text() for path in sorted(RUNBOOKS.glob("*.md"))]
    code = [span.replace("\n", " ") for text in texts for span in re.findall(r"`([^`]+)`", text)]
    return sorted({span for span in code if re.search(r"\b(?:tokenmill|vllm|process)[_:]\w|^up$", span)})


@cache
def dashboard() -> dict[str, Any]:
    """As Grafana reads it."""
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> list[dict[str, Any]]:
    """Those with lines in them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions() -> dict[str, str]:
    """By the panel's title and the line's legend."""
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
