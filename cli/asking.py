"""What all commands that ask a gateway have in common."""

from __future__ import annotations

import argparse
import os
from typing import Any

from cli.seconds import seconds
from cli.tls import add_tls, channel_options, credentials
from tokenmill_client import Client, Parameters, Retries

DEFAULT_GATEWAY = "127.0.0.1:50051"
_NUMBERS = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "max_new_tokens": int,
}


def add_gateway(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, and how long."""
    given = os.environ.get("TOKENMILL_GATEWAY") or DEFAULT_GATEWAY
    parser.add_argument("--gateway", default=given, metavar="HOST:PORT", help="whom to ask (default: %(default)s)")
    help_text = "key or token; better as TOKENMILL_API_KEY, which no list of processes shows"
    parser.add_argument("--api-key", metavar="KEY", help=help_text)
    add_tls(parser)
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="how long a call may take")


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """What to ask for."""
    parser.add_argument("--model", help="its name; not needed where there is one")
    for name, kind in _NUMBERS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar="NUMBER")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer here; repeatable")


def parameters(options: argparse.Namespace) -> Parameters:
    """What was given."""
    given = {name: value for name in ("model", *_NUMBERS) if (value := getattr(options, name)) is not None}
    if options.stop:
        given["stop_strings"] = options.stop
    return given  # type: ignore[return-value]  # its keys are those of Parameters


def client(options: argparse.Namespace) -> Client:
    """A connection to the gateway."""
    return Client(options.gateway, timeout_seconds=options.timeout, retries=Retries(attempts=2), **connection(options))


def connection(options: argparse.Namespace) -> dict[str, Any]:
    """How a client reaches the gateway, and who it is."""
    own = {"credentials": credentials(options), "channel_options": channel_options(options)}
    return {"api_key": options.api_key, **own}
