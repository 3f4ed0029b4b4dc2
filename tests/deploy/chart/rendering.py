"""The chart's objects, as helm renders them; and pods, as the cluster would make them of those."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART = REPOSITORY / "deploy" / "charts" / "tokenmill"
RELEASE, NAMESPACE = "tokenmill", "mill"
CONFIG_FILE = "/etc/tokenmill/config/config.toml"
# The chart with its defaults, with each example, and with what those leave out.
VALUES = {
    "default": None,
    **{
        path.stem: path
        for path in sorted([*(CHART / "examples").glob("*.yaml"), *(REPOSITORY / "tests/deploy/values").glob("*.yaml")])
    },
}
Object = dict[str, Any]


@dataclass(frozen=True)
class Deployment:
    """One tier, or one model's workers."""

    object: Object
    config: str  # the settings file in its ConfigMap

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def spec(self) -> Object:
        return dict(self.object["spec"])

    @property
    def pod_labels(self) -> dict[str, str]:
        return dict(self.spec["template"]["metadata"]["labels"])

    @property
    def tier(self) -> str:
        return self.pod_labels["app.kubernetes.io/component"]

    @property
    def pod(self) -> Object:
        return dict(self.spec["template"]["spec"])

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def arguments(self) -> dict[str, list[str]]:
        """The values of each flag."""
        found: dict[str, list[str]] = {}
        for argument in self.container["args"]:
            flag, separator, value = argument.partition("=")
            assert separator, f"{argument}: a flag and its value are one argument"
            found.setdefault(flag, []).append(value)
        return found

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @property
    def probes(self) -> dict[str, Object]:
        return {name: self.container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}


@dataclass(frozen=True)
class Rendered:
    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == f"{RELEASE}{name}"]
        return found

    @cached_property
    def deployments(self) -> list[Deployment]:
        configs = {one["metadata"]["name"]: one["data"] for one in self.of("ConfigMap")}
        return [Deployment(one, configs[one["metadata"]["name"]]["config.toml"]) for one in self.of("Deployment")]

    def tier(self, tier: str) -> list[Deployment]:
        return [deployment for deployment in self.deployments if deployment.tier == tier]


def render(values: Mapping[str, Any] | Path | None = None) -> Rendered:
    """The chart with `values`, or those of a file, on top of its own."""
    text = values.read_text() if isinstance(values, Path) else json.dumps(values or {}, ensure_ascii=False)
    return _rendered(text)


@lru_cache(maxsize=64)
def _rendered(values: str) -> Rendered:
    done = _helm(values)
    assert done.returncode == 0, done.stderr
    return Rendered(tuple(one for one in yaml.safe_load_all(done.stdout) if one))


def refusal(values: Mapping[str, Any]) -> str:
    """Why helm refuses `values`."""
    done = _helm(json.dumps(values, ensure_ascii=False))
    assert done.returncode != 0, "helm has taken them"
    return done.stderr


def notes(values: Path | None) -> str:
    """What helm tells whoever has installed the chart."""
    done = _helm(values.read_text() if values else "{}", "install", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


def _helm(values: str, *how: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", *(how or ["template"]), RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    return subprocess.run(command, input=values, capture_output=True, text=True, check=False)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a `{matchLabels: …}` is true of something with these labels; an empty one is of everything."""
    assert selector.keys() <= {"matchLabels"}, "the chart has no other selectors"
    return selector.get("matchLabels", {}).items() <= labels.items()
