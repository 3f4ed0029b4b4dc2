"""What the gateway can be told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rpc.settings import ServiceSettings, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatewaySettings(ServiceSettings):
    """Tokenmill gateway: text in, streamed text out."""

    port: int = option("port to listen on; 0 picks a free one", 50051, at_least=0, at_most=65535)
    http_port: int | None = option(
        "port of the HTTP API, on the same address; 0 picks a free one; none: no HTTP", None, at_least=0, at_most=65535
    )
    http_max_connections: int = option(
        "connections to that port at once; more are answered 503 and closed", 4096, at_least=1, at_most=1_000_000
    )
    page: bool = option("show people a page at / of the HTTP port, with a chat and the workers' load", True)
    tokenizer: tuple[str, ...] = option("where tokenizer services are, as for --worker; repeatable")
    worker: tuple[str, ...] = option(
        "host:port of a model worker; or dns:name:port, for all addresses of a name, or file:path, for all lines of a "
        "file, both watched; repeatable"
    )
    backend_ssl_ca_certs: Path | None = option(
        "certificates in PEM of authorities: workers and tokenizer services are called over TLS, and have to show a "
        "certificate of theirs; read again when it has changed, as are the next two",
        None,
    )
    backend_ssl_certfile: Path | None = option("certificate chain in PEM that the gateway shows them (mTLS)", None)
    backend_ssl_keyfile: Path | None = option("its key in PEM, unencrypted", None)
    backend_ssl_server_name: str = option(
        "the name that their certificates have to have; empty: the host of each target, which for dns:… is an address",
        "",
    )
    dns_server: str = option("IP address and port of the name server that is asked; empty: the system's", "")
    model_alias: tuple[str, ...] = option(
        "NAME=MODEL: another name for a model or an adapter, before any model that is called so; repeatable", ()
    )
    default_max_new_tokens: int = option(
        "bound of an output for requests that give no max_new_tokens", 1024, at_least=1, at_most=1_000_000
    )
    max_inflight: int = option(
        "requests of one model that are worked on, or not read to their end, at once", 1024, at_least=1, at_most=100_000
    )
    max_inflight_rows: int | None = option(
        "outputs of one model that are; none: what its ready workers compute at once, and a little more",
        None,
        at_least=1,
        at_most=10_000_000,
    )
    max_inflight_tokens: int | None = option(
        "tokens of one model's requests that are, with all that they may generate; none: twice what the K/V of its "
        "ready workers holds",
        None,
        at_least=1,
    )
    max_queue: int = option(
        "requests of one model that wait for that at most; beyond it they are refused",
        1024,
        at_least=0,
        at_most=100_000,
    )
    max_queue_tokens: int | None = option(
        "tokens of theirs, counted in the same way; none: 32 times those that may be worked on", None, at_least=0
    )
    ageing_seconds: float = option(
        "how long a request waits until it counts as one class of priority higher", 10.0, at_least=0.001, at_most=86400
    )
    tenant_key: str = option("the metadata that names a call's tenant, where callers show no credential", "x-tenant-id")
    api_key_file: Path | None = option(
        "TOML or JSON file with the SHA-256 of keys, and what each is for: callers have to show one; read again when "
        "it has changed",
        None,
    )
    jwt_jwks_file: Path | None = option(
        "file with the public keys (JWKS) of an issuer of tokens (JWT): callers have to show one, or a key; read again "
        "when it has changed",
        None,
    )
    jwt_issuer: str = option("the `iss` that tokens have to have", "")
    jwt_audience: str = option("the `aud` that tokens have to have", "")
    jwt_tenant_claim: str = option("the claim of a token that names its tenant", "sub")
    tenant_weight: tuple[str, ...] = option(
        "NAME=NUMBER: so many times the share of other tenants, when there is more to do than can be done; repeatable",
        (),
    )
    tenant_max_inflight: int | None = option(
        "requests of one tenant and model that are worked on at once; more wait; none: no limit of its own",
        None,
        at_least=1,
    )
    tenant_max_queue: int | None = option(
        "requests of one tenant and model that wait; more are refused; none: no limit of its own", None, at_least=0
    )
    default_deadline_seconds: float = option(
        "how long a call may take whose caller gives no deadline", 600.0, at_least=0.001, at_most=86400
    )
    max_deadline_seconds: float = option(
        "how long a call may take at most, whatever its caller says", 3600.0, at_least=0.001, at_most=86400
    )
    failover_seconds: float = option(
        "how long a request that has lost its worker, or finds no tokenizer service, waits for another one",
        5.0,
        at_least=0,
        at_most=600,
    )
    tokenizer_attempt_seconds: float = option(
        "how long a tokenizer service may take until another one is asked; more than its --template-seconds",
        5.0,
        at_least=0.1,
        at_most=600,
    )
