"""How the commands reach services that speak TLS."""

from __future__ import annotations

import argparse
from pathlib import Path

import grpc

from cli.failure import WRONG_USAGE, CommandError

_FILES = {
    "ssl_ca_certs": "certificates in PEM of the authorities to trust: TLS",
    "ssl_certfile": "certificate chain in PEM to show, where one is demanded (mTLS)",
    "ssl_keyfile": "its key in PEM",
}


def add_tls(parser: argparse.ArgumentParser) -> None:
    """The files, and the name to look for. No variables: in a container those of these names are the service's own."""
    for name, text in _FILES.items():
        parser.add_argument(_flag(name), metavar="FILE", help=text)
    help_text = "the name that the certificate has to have, if not the address's"
    parser.add_argument("--ssl-server-name", metavar="NAME", help=help_text)


def credentials(options: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """As given; None: no TLS. Errors: CommandError."""
    authorities, chain, key = (_read(options, name) for name in _FILES)
    if (chain is None) != (key is None):
        raise CommandError("--ssl-certfile and --ssl-keyfile belong together", code=WRONG_USAGE)
    if authorities is None:
        if chain is not None or options.ssl_server_name:
            raise CommandError("--ssl-certfile and --ssl-server-name need --ssl-ca-certs", code=WRONG_USAGE)
        return None
    return grpc.ssl_channel_credentials(authorities, key, chain)


def channel_options(options: argparse.Namespace) -> list[tuple[str, str]]:
    """What a channel needs beside its credentials."""
    return [("grpc.ssl_target_name_override", options.ssl_server_name)] if options.ssl_server_name else []


def _read(options: argparse.Namespace, name: str) -> bytes | None:
    path = getattr(options, name)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"{_flag(name)}: {path}: {error.strerror}", code=WRONG_USAGE) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
