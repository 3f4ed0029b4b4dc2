"""Rules, dashboard and runbooks are of a piece. What Prometheus itself makes of them, `make test-prometheus` says."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections import defaultdict

import pytest
import yaml

from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from tests.conftest import REPOSITORY
from tests.prometheus.files import DASHBOARD, RULE_TESTS, RUNBOOKS, alerts, dashboard, panel_expressions, panels
from tests.prometheus.promql import asked
from tokenizer_service.settings import TokenizerSettings

SOURCES = ("gateway", "model_worker", "rpc", "tokenizer_service")
OPTIONS = {
    field.name.replace("_", "-")
    for settings in (GatewaySettings, TokenizerSettings, WorkerSettings)
    for field in dataclasses.fields(settings)
}
SECTIONS = ["What it means", "What callers feel", "Look here", "Do this", "It is over when"]


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_all_that_whoever_is_woken_needs(name: str) -> None:
    alert = alerts()[name]
    assert re.fullmatch(r"Tokenmill[A-Z]\w+", name)
    assert set(alert["labels"]) == {"severity"}
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert (REPOSITORY / alert["annotations"]["runbook_url"]).is_file()


def test_every_runbook_is_of_an_alert_and_in_the_index() -> None:
    runbooks = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert runbooks == set(alerts())
    index = re.findall(r"\[(\w+)\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert [name for name, _ in index] == [file for _, file in index]
    assert {name for name, _ in index} == runbooks


@pytest.mark.parametrize("name", alerts())
def test_a_runbook_has_its_sections_and_fits_on_a_screen(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert len(text.splitlines()) <= 50


@pytest.mark.parametrize("name", alerts())
def test_what_a_runbook_says_of_the_log_is_what_is_logged(name: str) -> None:
    """Messages of log lines stand in it as `"message"`."""
    messages = re.findall(r'`"([^"`]+)"`', (RUNBOOKS / f"{name}.md").read_text())
    sources = "".join(path.read_text() for folder in SOURCES for path in (REPOSITORY / folder).rglob("*.py"))
    assert [message for message in messages if f'"{message}"' not in sources] == []


@pytest.mark.parametrize("name", alerts())
def test_a_runbook_names_options_and_files_that_there_are(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    options = set(re.findall(r"`--([\w-]+)", text))
    assert options <= OPTIONS
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOKS / link).is_file(), link


def test_every_alert_fires_in_one_unit_test_and_does_not_in_another() -> None:
    expected = defaultdict(set)
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for one in test["alert_rule_test"]:
            expected[one["alertname"]].add(bool(one["exp_alerts"]))
    assert expected == {name: {True, False} for name in alerts()}


def test_the_dashboard_is_what_its_program_writes() -> None:
    program = REPOSITORY / "deploy" / "prometheus" / "dashboard"
    written = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout
    assert DASHBOARD.read_text() == written


def test_every_panel_has_a_unit_a_description_and_legends() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert target["datasource"]["uid"] == "${datasource}"
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))


def test_no_panel_lies_over_another_one() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_ask_with_variables_that_there_are() -> None:
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    for where, expression in panel_expressions().items():
        assert set(re.findall(r'"\$(\w+)"', expression)) <= variables, where


@pytest.mark.parametrize(
    ("expression", "metrics", "grouped"),
    [
        ('sum by (a, b) (rate(x_total{c=~"d|e", f="g"}[5m])) / 2', {"x_total": {"c", "f"}}, {"a", "b"}),
        ("x:y5m > 14.4 * 0.005 and on (j) z{} unless w offset 5m", {"x:y5m": set(), "z": set(), "w": set()}, {"j"}),
        ('a{b="}"} * on (c) group_left (d) e # f', {"a": {"b"}, "e": set()}, {"c", "d"}),
        ("time() - g", {"g": set()}, set()),
    ],
)
def test_expressions_are_read(expression: str, metrics: dict[str, set[str]], grouped: set[str]) -> None:
    found = asked(expression)
    assert (found.metrics, found.grouped) == (metrics, grouped)
