"""What a cluster does with the chart's objects, on this machine: pods are processes with addresses of their own.

Kept to: probes with their periods and thresholds, when a pod gets traffic and when no more, the hook before SIGTERM,
the time until SIGKILL, and a Deployment that adds a pod before it takes one away. Names and the service's address learn
of a change PROPAGATION_SECONDS late, with time for a name server's cache and for every node.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.chart.service_address import ServiceAddress
from tests.gateway.fleet.name_server import NameServer, name_server
from tests.processes import GATEWAY, TOKENIZER, WORKER, Process, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.deploy.chart.rendering import Deployment, Object, Rendered

PROPAGATION_SECONDS = 1.5
MODULES = {"gateway": GATEWAY, "tokenizer": TOKENIZER, "worker": WORKER}


class Pod:
    """One process, as its kubelet treats it. `changed` is called whenever somebody else might care."""

    def __init__(self, deployment: Deployment, address: str, running: Process, changed: Callable[[], None]) -> None:
        self.deployment = deployment
        self.address = address
        self.process = running
        self.is_ready = self.is_terminating = self.is_gone = False
        self.was_killed = False
        self._became_ready = asyncio.Event()
        self._changed = changed
        self._probing = asyncio.create_task(self._probe())

    async def comes_up(self) -> None:
        """Return once it is ready. Errors: AssertionError, where it never will be."""
        ready = asyncio.create_task(self._became_ready.wait())
        await asyncio.wait({ready, self._probing}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        assert not self._probing.done(), f"{self.deployment.name} has not come up: {self.process.lines[-5:]}"

    async def terminate(self) -> None:
        """What happens to a pod that is deleted. Errors: AssertionError, unless it has ended in order."""
        self.is_terminating = True
        self._changed()
        lifecycle = self.deployment.container.get("lifecycle")
        slept = lifecycle["preStop"]["sleep"]["seconds"] if lifecycle else 0
        await asyncio.sleep(slept)
        self.process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.deployment.pod["terminationGracePeriodSeconds"] - slept):
                assert await self.process.exit_code() == 0
        except TimeoutError:
            self.was_killed = True
            await self.process.kill()
        self._probing.cancel()
        self.is_gone = True
        self._changed()

    async def _probe(self) -> None:
        probes = self.deployment.probes
        if not await self._passes(probes["startup"]):
            return
        await asyncio.gather(self._watch_readiness(probes["readiness"]), self._watch_liveness(probes["liveness"]))

    async def _passes(self, probe: Object) -> bool:
        """Whether it answers well before it has failed too often in a row."""
        for _ in range(probe["failureThreshold"]):
            if self._has_ended:  # a container that ends is begun anew, which nothing here is to need
                return False
            if await self._answers(probe):
                return True
            await asyncio.sleep(probe["periodSeconds"])
        return False

    async def _watch_readiness(self, probe: Object) -> None:
        while True:
            is_ready = await self._answers(probe) if not self.is_ready else await self._passes(probe)
            if is_ready != self.is_ready:
                self.is_ready = is_ready
                self._became_ready.set()
                self._changed()
            await asyncio.sleep(probe["periodSeconds"])

    async def _watch_liveness(self, probe: Object) -> None:
        while await self._passes(probe) or self.is_terminating:  # noqa: ASYNC110 - so probes are; of that, no more
            await asyncio.sleep(probe["periodSeconds"])
        self.was_killed = True
        await self.process.kill()

    @property
    def _has_ended(self) -> bool:
        return self.process.process.returncode is not None

    async def _answers(self, probe: Object) -> bool:
        try:
            async with asyncio.timeout(probe["timeoutSeconds"]):
                return await (_is_serving if "grpc" in probe else _is_found)(self.address, probe)
        except (TimeoutError, OSError, grpc.aio.AioRpcError):
            return False


async def _is_serving(address: str, probe: Object) -> bool:
    async with grpc.aio.insecure_channel(f"{address}:{probe['grpc']['port']}") as channel:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
        answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _is_found(address: str, probe: Object) -> bool:
    reader, writer = await asyncio.open_connection(address, probe["httpGet"]["port"])
    try:
        writer.write(
            f"GET {probe['httpGet']['path']} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode()
        )
        return (await reader.readline()).split()[1] == b"200"
    finally:
        writer.close()


class Cluster:
    """Owns the pods of one release, and what is known of them: names, and who is behind the gateway's ports."""

    def __init__(
        self, rendered: Rendered, names: NameServer, grpc: ServiceAddress, http: ServiceAddress, pods: AsyncExitStack
    ) -> None:
        self.grpc = grpc
        self.http = http
        self.pods: list[Pod] = []  # also those that are gone
        self._rendered = rendered
        self._names = names
        self._running = pods
        self._told = self._heard = 0  # changes, and how many of them everybody knows
        self._news = asyncio.Event()
        self._numbers = itertools.count(1)  # fewer than 255
        # Ports are the chart's, so whoever else runs this here has to have other addresses.
        self._network = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"

    async def grow(self, deployment: Deployment, more: Sequence[str], mounted: dict[str, str]) -> Pod:
        """One more pod, when it is ready. `more`: flags beside the chart's. `mounted`: where its paths are here."""
        address = f"{self._network}.{next(self._numbers)}"
        flags = [_here(argument, mounted) for argument in deployment.container["args"]]
        # Each pod listens on its own address instead of on all; and asks the name server that it would have been given.
        own = [
            "--host",
            address,
            *more,
            *(["--dns-server", self._names.target] if deployment.tier == "gateway" else []),
        ]
        running = await self._running.enter_async_context(process(MODULES[deployment.tier], *flags, *own))
        pod = Pod(deployment, address, running, self._tell)
        self.pods.append(pod)
        self._tell()
        await pod.comes_up()
        return pod

    async def settled(self) -> None:
        """Return once everybody knows how things are."""
        while self._heard < self._told:
            self._news.clear()
            await self._news.wait()

    def _tell(self) -> None:
        """Let names and the address know, in a while, how things are now."""
        self._told += 1
        names = {service["metadata"]["name"]: self._addresses(service) for service in self._rendered.of("Service")}
        asyncio.get_running_loop().call_later(PROPAGATION_SECONDS, self._know, names)

    def _know(self, names: dict[str, list[str]]) -> None:
        self._names.addresses.update(names)
        gateway = self._rendered.one("Service", "-gateway")
        ports = {port["name"]: port["targetPort"] for port in gateway["spec"]["ports"]}
        for name, address in {"grpc": self.grpc, "http": self.http}.items():
            address.endpoints = [f"{pod}:{ports[name]}" for pod in names[gateway["metadata"]["name"]]]
        self._heard += 1
        self._news.set()

    def _addresses(self, service: Object) -> list[str]:
        of_all = service["spec"].get("publishNotReadyAddresses", False)
        tier = service["spec"]["selector"]["app.kubernetes.io/component"]
        pods = [pod for pod in self.pods if pod.deployment.tier == tier and not pod.is_gone]
        return [pod.address for pod in pods if of_all or (pod.is_ready and not pod.is_terminating)]


def _here(argument: str, mounted: dict[str, str]) -> str:
    for path, folder in mounted.items():
        argument = argument.replace(path, folder)
    return argument


@asynccontextmanager
async def cluster(rendered: Rendered) -> AsyncIterator[Cluster]:
    """An empty one. Whatever still runs at the end is killed."""
    async with name_server() as names, AsyncExitStack() as stack:
        grpc_address, http_address = [await stack.enter_async_context(ServiceAddress().listening()) for _ in range(2)]
        running = Cluster(rendered, names, grpc_address, http_address, stack)
        yield running
        for pod in running.pods:
            pod._probing.cancel()
