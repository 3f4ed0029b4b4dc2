"""Is it ready yet? What a service says about itself over gRPC while it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenmill.v1 import worker_pb2, worker_pb2_grpc

READINESS = "readiness"
RETRY_SECONDS = 0.2
LOOK_SECONDS = 0.5  # loading progress can only be asked for; as often as a person would look

# A local address is never reached through a proxy, whatever the environment says.
LOCAL_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 32 * 2**20)]


def open_local_channel(address: str) -> grpc.aio.Channel:
    """A channel to a service on this machine."""
    return grpc.aio.insecure_channel(address, options=LOCAL_CHANNEL_OPTIONS)


async def wait_ready(address: str) -> None:
    """Return once the service at `address` says SERVING. One that has ended is for others to notice."""
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async with open_local_channel(address) as channel:
        while True:
            try:
                async for response in health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True):
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(RETRY_SECONDS)


async def follow_loading(address: str, tell: Callable[[str, float], None]) -> None:
    """Tell the worker's loading stage and its fraction, again and again until cancelled."""
    async with open_local_channel(address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        while True:
            try:
                worker = await stub.GetWorker(worker_pb2.GetWorkerRequest(), wait_for_ready=True)
                tell(worker.progress.stage, worker.progress.fraction)
            except grpc.aio.AioRpcError:
                pass  # too early to answer: nothing to tell yet
            await asyncio.sleep(LOOK_SECONDS)
