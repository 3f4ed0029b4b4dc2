"""Write the dashboard: python deploy/prometheus/dashboard > deploy/charts/tokenmill/files/dashboard.json

A panel is a few lines here, and forty in Grafana's JSON. A test compares both.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from expressions import HERE
from panel import Panel
from request_rows import REQUESTS
from service_rows import SERVICES

SCHEMA_VERSION = 41  # of Grafana 11.6 and 12.0; others take what they know of it
WIDTH, HEIGHT, ACROSS = 8, 8, 3  # of 24 columns
ROWS = {**REQUESTS, **SERVICES}


def dashboard() -> dict[str, Any]:
    """As Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_row(title, top))
        for index, panel in enumerate(row):
            across, down = index % ACROSS, index // ACROSS
            panels.append(_panel(panel, across * WIDTH, top + 1 + down * HEIGHT))
        top += 1 + HEIGHT * -(-len(row) // ACROSS)
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "tokenmill",
        "title": "Tokenmill",
        "description": "Gateways, tokenizer services and workers. docs/metrics.md says what every metric means.",
        "tags": ["tokenmill"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    """Whatever is matched by `.*` may be missing: outside of Kubernetes there is no namespace."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    asked = {
        "namespace": "label_values(tokenmill_build_info, namespace)",
        "model_name": f"label_values(tokenmill_requests_waiting{{{HERE}}}, model_name)",
    }
    return [source] + [
        {
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "type": "query",
            "datasource": _source(),
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        for name, query in asked.items()
    ]


def _row(title: str, top: int) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "gridPos": _place(0, top, 24, 1), "panels": []}


def _panel(panel: Panel, left: int, top: int) -> dict[str, Any]:
    custom: dict[str, Any] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": custom}
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _source(),
        "gridPos": _place(left, top, WIDTH, HEIGHT),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _source(),
                "expr": expression,
                "legendFormat": legend,
                "editorMode": "code",
                "range": True,
            }
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
