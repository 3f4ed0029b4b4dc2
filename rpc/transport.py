"""The one place with gRPC's own knobs: message size, keepalive, ports. The same on every hop."""

from __future__ import annotations

import grpc

from rpc.tls.client import ClientTls

# Largest message in either direction. The largest legitimate ones: 64 prompts of 32,768 tokens as a tensor (8 MiB of
# ids), or a chat of a few MiB; 32 MiB leaves room, and still bounds what one call can make a service hold.
MAX_MESSAGE_BYTES = 32 * 2**20
# A partitioned peer is noticed within KEEPALIVE_SECONDS + KEEPALIVE_TIMEOUT_SECONDS instead of hours.
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10

SHARED_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# Calls that have come in and that our event loop has not taken yet. By default the library drops some beyond 1,000, as
# CANCELLED; whom we refuse, admission decides, with a reason. As many as a gateway can be told to queue.
MAX_PENDING_CALLS = 100_000
# Calls at once on one connection; a caller's library holds more back until some have ended. More than anybody's bench
# sends, and little enough for one connection not to take all that may be pending.
MAX_CALLS_PER_CONNECTION = 20_000
MAX_CONNECTIONS = 16_384  # to one port; each costs memory and a file descriptor, and those beyond are closed at once
IDLE_SECONDS = 900  # without a call a connection is closed; its owner's library opens another with the next call
MAX_METADATA_BYTES = 16 * 1024  # of a call, each entry with 32 bytes more; the largest thing in it is a token
HANDSHAKE_SECONDS = 20  # a few round trips; who takes longer holds a connection for nothing
SERVER_OPTIONS = [
    *SHARED_OPTIONS,
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    # A second server on a taken port must fail, not steal calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Both, or the library refuses by chance what is a little larger.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
]
CHANNEL_OPTIONS = [
    *SHARED_OPTIONS,
    # Between services nothing is retried behind our back: what is safe to retry, the gateway knows.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def make_server(
    *interceptors: grpc.aio.ServerInterceptor,  # type: ignore[type-arg]
    max_connection_age_seconds: float | None = None,
) -> grpc.aio.Server:
    """A server that takes calls in the order in which they come in, whatever their methods.

    Generated code adds its handlers in two ways. Of those that are registered by method, the library keeps a queue for
    each; without them there is one for all, so that the answer to a call says that none that came before still waits.
    """
    options = list(SERVER_OPTIONS)
    if max_connection_age_seconds is not None:
        options.append(("grpc.max_connection_age_ms", round(max_connection_age_seconds * 1000)))
    server = grpc.aio.server(interceptors=interceptors, options=options)
    server.add_registered_method_handlers = lambda *_: None  # type: ignore[attr-defined]
    return server


def open_channel(target: str, tls: ClientTls | None = None) -> grpc.aio.Channel:
    """A channel to one of our own services at `host:port`; with `tls`, made of its files as they are now."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, tls.credentials(), options=[*CHANNEL_OPTIONS, *tls.options])


def join_address(host: str, port: int) -> str:
    """`host:port` as gRPC reads it: an IPv6 address goes into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
