"""Every path of the gateway's HTTP port."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from gateway.http.call import Handled, HttpCalls
from gateway.http.errors import method_not_allowed, no_such_path
from gateway.http.messages import Answer, Events, Handler, HttpRequest, json_answer
from gateway.http.openai.api import OpenAiApi
from gateway.http.openapi import document
from gateway.http.page import Page, file_answer
from rpc.metrics import TEXT_TYPE, text_of


def make_app(
    calls: HttpCalls, api: OpenAiApi, page: Page | None, registry: CollectorRegistry, is_ready: Callable[[], bool]
) -> ASGIApp:
    """An ASGI application; `is_ready` says whether requests are welcome."""

    async def ready(_request: HttpRequest) -> Answer:
        return json_answer({"status": "ready"}) if is_ready() else json_answer({"status": "not ready"}, status=503)

    work: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", api.chat),
        ("POST", "/v1/completions", api.complete),
        ("POST", "/v1/responses", api.respond),
        ("GET", "/v1/models", api.list_models),
        ("GET", "/v1/models/{model:path}", api.get_model),
        ("POST", "/tokenize", api.tokenize),
        ("POST", "/detokenize", api.detokenize),
    ]

    async def tell_metrics(_request: HttpRequest) -> Answer:
        return Answer(text_of(registry), media_type=TEXT_TYPE)

    described, docs = json_answer(document()), file_answer("docs.html")

    async def openapi(_request: HttpRequest) -> Answer:
        return described

    async def show_docs(_request: HttpRequest) -> Answer:
        return docs

    quiet: list[tuple[str, str, Handler]] = [
        ("GET", "/health", _health),
        ("GET", "/ready", ready),
        ("GET", "/version", _version),
        ("GET", "/metrics", tell_metrics),
        ("GET", "/openapi.json", openapi),
        ("GET", "/docs", show_docs),
    ]
    if page is not None:
        quiet += [("GET", "/", page.show), ("GET", "/workers", page.workers)]
    routes = [Route(path, Handled(handler, calls), methods=[method]) for method, path, handler in work]
    routes += [Route(path, Handled(handler, calls, is_quiet=True), methods=[method]) for method, path, handler in quiet]
    routes += [Route(path, Handled(_wrong_method, calls)) for _, path, _ in (*work, *quiet)]
    return Router(routes, redirect_slashes=False, default=Handled(_nothing_there, calls))


async def _health(_request: HttpRequest) -> Answer:
    return json_answer({"status": "ok"})


async def _version(_request: HttpRequest) -> Answer:
    return json_answer({"version": version("tokenmill")})


async def _wrong_method(_request: HttpRequest) -> Answer | Events:
    raise method_not_allowed()


async def _nothing_there(_request: HttpRequest) -> Answer | Events:
    raise no_such_path()
