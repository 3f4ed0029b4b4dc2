"""The gateway as a service: what it is made of, and when it is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NoReturn

import grpc

from gateway.access.access import Access, Metadata, access_from
from gateway.access.quotas import Quotas
from gateway.admission.gate import Admission
from gateway.admission.limits import Limits
from gateway.aliases import AliasError, parse_aliases
from gateway.catalogue import Catalogue
from gateway.deadline import DeadlineLimits
from gateway.fleet.targets import Source, TargetError, source_of
from gateway.fleet.tokenizer_pool import TokenizerPool
from gateway.fleet.worker_pool import WorkerPool
from gateway.http.app import Shown, for_strangers, make_app
from gateway.http.call import HttpCalls
from gateway.http.openai.api import OpenAiApi
from gateway.http.page import Page
from gateway.inference import Callers, Inference
from gateway.metrics import GatewayMetrics
from gateway.pipeline import Pipeline
from gateway.servicer import InferenceServicer
from gateway.settings import GatewaySettings
from gateway.state_metrics import StateMetrics
from gateway.tenants import TenantSettingError, check_key, weights_from
from gateway.tokenizer_client import UNUSABLE_TOKENIZER, TokenizerClient
from rpc import log
from rpc.errors import ServiceError
from rpc.http_connection import HEADER_SECONDS, ConnectionRules
from rpc.http_server import HttpServer
from rpc.reloaded import RefusedContentError
from rpc.service import Surroundings
from rpc.start_error import StartError
from rpc.tls.client import ClientTls, client_tls
from rpc.tls.pem import PemFiles
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

LOGGER = logging.getLogger("tokenmill.gateway")
RETRY_SECONDS = 0.5


class GatewayService:
    """Owns the admission and the clients of both tiers. Ready: a worker seen once and its tokenizer fetched."""

    name = "gateway"
    full_name = gateway_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

    def __init__(self, settings: GatewaySettings) -> None:
        aliases, limits, access = _aliases(settings.model_alias), _limits(settings), _access(settings)
        tls = self._backend = _backend_tls(settings)
        workers = _sources("--worker", settings.worker, settings.dns_server)
        services = _sources("--tokenizer", settings.tokenizer, settings.dns_server)
        seconds = settings.failover_seconds
        self._workers = WorkerPool(workers, settings.default_max_new_tokens, failover_seconds=seconds, tls=tls)
        self._services = TokenizerPool(services, settings.tokenizer_attempt_seconds, seconds, tls=tls)
        self._tokenizers = TokenizerClient(self._services, self._workers.vocabularies.learn)
        self._metrics = GatewayMetrics()
        self._admission = Admission(limits, self._workers.capacity, on_turn=self._metrics.turn)
        self._starting = asyncio.create_task(self._start_waiting())
        pipeline = Pipeline(self._admission, self._tokenizers, self._workers)
        self._catalogue = Catalogue(self._workers, aliases)
        self._inference = Inference(pipeline, self._catalogue, self._tokenizers, self._metrics, Quotas())
        deadlines = DeadlineLimits(settings.default_deadline_seconds, settings.max_deadline_seconds)
        self._callers = Callers(deadlines, access)
        self._settings = settings
        self.http: HttpServer | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        servicer = InferenceServicer(self._inference, self._callers)
        gateway_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)

    def check_caller(self, metadata: Metadata) -> None:
        """Refuse a caller that shows no credential where one is needed. Errors: ServiceError (UNAUTHENTICATED)."""
        self._callers.access.check(metadata)

    async def listen(self, surroundings: Surroundings) -> None:
        """Tell of itself, and open the HTTP port, if there is to be one. Errors: StartError."""
        surroundings.registry.register(self._metrics)
        surroundings.registry.register(StateMetrics(self._admission, self._workers, self._services))
        if (backend := self._backend) is not None:
            surroundings.certificates.follow("client", lambda: backend.version)
        http_port = self._settings.http_port
        if http_port is None:
            return
        tls, settings = surroundings.tls, self._settings
        calls = HttpCalls(surroundings.running, settings.max_deadline_seconds, self.check_caller)
        api = OpenAiApi(self._inference, self._callers)
        page = Page(self._workers.states, surroundings.port) if settings.page else None
        shown = Shown(lambda: surroundings.health.is_ready, surroundings.registry, page)
        app = make_app(calls, api, self._callers, shown)
        rules = ConnectionRules(
            settings.http_max_connections,
            HEADER_SECONDS,
            tls.peers if tls else None,
            for_strangers(app, calls),
            settings.max_connection_age_seconds,
        )
        http = HttpServer(app, settings.host, http_port, rules, tls)
        await http.listen()
        self.http = http
        log.event(LOGGER, logging.INFO, "listening for HTTP", port=http.port)

    async def start(self) -> None:
        """Wait for a worker whose model's tokenizer can be had. Errors: StartError if that can never be."""
        while not await self._can_serve_one():
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        """Until something behind the gateway becomes ready, or is no longer, or a little while."""
        changes = [asyncio.create_task(tier.wait_for_change()) for tier in (self._workers, self._services)]
        try:
            await asyncio.wait(changes, timeout=RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for change in changes:
                change.cancel()

    async def _can_serve_one(self) -> bool:
        models = [model for model in self._workers.ready_models() if not model.is_adapter]
        for model in models:
            try:
                await self._tokenizers.artefact(model, model.vocabulary_fingerprint)
            except ServiceError as error:
                if error.reason == UNUSABLE_TOKENIZER and len(models) == 1:
                    raise StartError(error.message) from None
                log.event(LOGGER, logging.WARNING, "no tokenizer yet", model=model.name, why=error.message)
            else:
                return True
        return False

    async def wait_broken(self) -> NoReturn:
        """Never return: a gateway outlives what is behind it."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def describe(self) -> dict[str, object]:
        """The models, and who computes them, by address."""
        tiers = {"workers": self._workers.described(), "tokenizers": self._services.described()}
        return {"models": self._catalogue.described(), **tiers}

    def stop_accepting(self) -> None:
        """Refuse new requests."""
        self._admission.drain()
        if self.http is not None:
            self.http.stop_accepting()

    async def close(self) -> None:
        """Close the HTTP port and the clients."""
        if self.http is not None:
            await self.http.close()
        self._starting.cancel()
        await asyncio.wait([self._starting])
        await self._workers.close()
        await self._services.close()

    async def _start_waiting(self) -> None:
        """Workers that become ready have places for those who wait."""
        while True:
            await self._workers.wait_for_change()
            self._admission.look()


def _limits(settings: GatewaySettings) -> Limits:
    """Errors: StartError."""
    try:
        check_key(settings.tenant_key)
        weights = weights_from(settings.tenant_weight)
    except TenantSettingError as error:
        raise StartError(str(error)) from None
    return Limits(
        max_inflight=settings.max_inflight,
        max_inflight_rows=settings.max_inflight_rows,
        max_inflight_tokens=settings.max_inflight_tokens,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        tenant_max_inflight=settings.tenant_max_inflight,
        tenant_max_queue=settings.tenant_max_queue,
        ageing_seconds=settings.ageing_seconds,
        weights=weights,
    )


def _access(settings: GatewaySettings) -> Access:
    """Errors: StartError."""
    try:
        return access_from(settings)
    except RefusedContentError as error:
        raise StartError(str(error)) from None


def _backend_tls(settings: GatewaySettings) -> ClientTls | None:
    """Errors: StartError."""
    pair = settings.backend_ssl_certfile, settings.backend_ssl_keyfile
    try:
        return client_tls(
            PemFiles("--backend-ssl", *pair, settings.backend_ssl_ca_certs), settings.backend_ssl_server_name
        )
    except RefusedContentError as error:
        raise StartError(str(error)) from None


def _aliases(given: Sequence[str]) -> dict[str, str]:
    try:
        return parse_aliases(given)
    except AliasError as error:
        raise StartError(f"--model-alias: {error}") from None


def _sources(flag: str, targets: Sequence[str], dns_server: str) -> list[Source]:
    try:
        return [source_of(target, dns_server) for target in targets]
    except TargetError as error:
        raise StartError(f"{flag}: {error}") from None
