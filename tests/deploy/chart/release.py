"""The chart's Deployments on this machine: installed, and rolled as after an upgrade."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.certificates import Authority
from tests.deploy.chart.cluster import cluster
from tests.end_to_end.stack import write_model_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.deploy.chart.cluster import Cluster
    from tests.deploy.chart.rendering import Deployment, Object, Rendered

# Secrets with certificates, and the names in those.
GATEWAY_NAME, BACKEND_NAME = "gateway.mill", "backend.mill"
CERTIFICATES = {"gateway-tls": GATEWAY_NAME, "tokenizer-tls": BACKEND_NAME, "worker-tls": BACKEND_NAME}
MTLS: Mapping[str, Any] = {
    "enabled": True,
    "gatewaySecretName": "gateway-tls",
    "tokenizerSecretName": "tokenizer-tls",
    "workerSecretName": "worker-tls",
    "serverName": BACKEND_NAME,
    "gatewayNames": [GATEWAY_NAME],
}


class Release:
    """What is installed. Its volumes are folders of the test: one model for all, settings, secrets."""

    def __init__(self, running: Cluster, rendered: Rendered, folder: Path, script: Mapping[str, Any]) -> None:
        self.cluster = running
        self._deployments = rendered.deployments
        self._folder = folder
        self._model = write_model_folder(folder / "model")
        self._script = folder / "script.json"
        self._script.write_text(json.dumps(script))
        _write_secrets(folder)

    async def install(self) -> None:
        """All pods at once; a gateway is ready when there is something behind it."""
        replicas = [deployment for deployment in self._deployments for _ in range(deployment.spec["replicas"])]
        await asyncio.gather(*map(self._grow, replicas))
        await self.cluster.settled()

    async def restart(self) -> None:
        """Every pod is replaced by another one: all Deployments at once, as after an upgrade."""
        await asyncio.gather(*map(self._roll, self._deployments))

    async def _roll(self, deployment: Deployment) -> None:
        assert deployment.spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        old = [pod for pod in self.cluster.pods if pod.deployment is deployment]
        async with asyncio.TaskGroup() as ending:
            for pod in old:
                await self._grow(deployment)
                ending.create_task(pod.terminate())  # nobody waits for its end before the next is added

    async def _grow(self, deployment: Deployment) -> None:
        more = {"worker": ["--script", str(self._script)], "tokenizer": ["--threads", "1"]}
        await self.cluster.grow(deployment, more.get(deployment.tier, []), self._mounted(deployment))

    def _mounted(self, deployment: Deployment) -> dict[str, str]:
        volumes = {volume["name"]: volume for volume in deployment.pod["volumes"]}
        found = {
            mount["mountPath"]: self._folder_of(volumes[mount["name"]], deployment)
            for mount in deployment.container["volumeMounts"]
        }
        return {path: str(folder) for path, folder in found.items() if folder is not None}

    def _folder_of(self, volume: Object, deployment: Deployment) -> Path | None:
        match volume:
            case {"configMap": _}:
                folder = self._folder / deployment.name
                folder.mkdir(exist_ok=True)
                (folder / "config.toml").write_text(deployment.config)
                return folder
            case {"secret": {"secretName": name}}:
                return self._folder / str(name)
            case {"name": str() as name} if name.startswith("model-"):
                return self._model
        return None


def _write_secrets(folder: Path) -> None:
    authority = Authority(folder)
    for secret, name in CERTIFICATES.items():
        pair = authority.pair(name, file=secret)
        (folder / secret).mkdir()
        for key, file in {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.file}.items():
            (folder / secret / key).write_bytes(file.read_bytes())


@asynccontextmanager
async def installed(rendered: Rendered, folder: Path, script: Mapping[str, Any]) -> AsyncIterator[Release]:
    """A release whose pods are all ready. Whatever still runs at the end is killed."""
    async with cluster(rendered) as running:
        release = Release(running, rendered, folder, script)
        await release.install()
        yield release
