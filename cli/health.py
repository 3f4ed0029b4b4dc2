"""`tokenmill health`: whether a service, any of the three, says that it is ready. For people, and for exec probes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.failure import UNAVAILABLE
from cli.readiness import LOCAL_CHANNEL_OPTIONS
from cli.seconds import seconds
from cli.tls import add_tls, channel_options, credentials

PORTS = {"gateway": 50051, "tokenizer": 50052, "worker": 50053}
SECONDS = 2.0


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "health", help="ask services whether they are ready", description="Ask services whether they are ready."
    )
    parser.add_argument("address", nargs="*", help="HOST:PORT; not given: the three usual ones on this machine")
    add_tls(parser)
    parser.add_argument("--live", action="store_true", help="ask only whether they live")
    parser.add_argument("--timeout", type=seconds, default=SECONDS, metavar="SECONDS", help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each; 0 if all are."""
    name = "liveness" if options.live else "readiness"
    asked = {address: address for address in options.address}
    asked = asked or {service: f"127.0.0.1:{port}" for service, port in PORTS.items()}
    with_tls = credentials(options)
    states = {
        service: state_of(address, name, options.timeout, with_tls, channel_options(options))
        for service, address in asked.items()
    }
    for service, state in states.items():
        print(f"{service}: {state}")
    return 0 if all(state == "SERVING" for state in states.values()) else UNAVAILABLE


def state_of(
    address: str,
    name: str,
    seconds: float,
    credentials: grpc.ChannelCredentials | None = None,
    own_options: Sequence[tuple[str, str]] = (),
) -> str:
    """What the service at `address` says of `name`; "no answer" if it does not."""
    options = [*LOCAL_CHANNEL_OPTIONS, *own_options]
    opened = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with opened as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=seconds
            )
        except grpc.RpcError:
            return "no answer"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
