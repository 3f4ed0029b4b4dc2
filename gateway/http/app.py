"""Every path of the gateway's HTTP port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.call import Handled, HttpCalls
from gateway.http.errors import method_not_allowed, no_such_path
from gateway.http.messages import Answer, Events, Handler, HttpRequest, json_answer
from gateway.http.openai.api import OpenAiApi
from gateway.http.openapi import document
from gateway.http.page import Page, file_answer
from gateway.inference import Callers
from rpc.errors import client_not_accepted
from rpc.metrics import TEXT_TYPE, text_of

# Open to everybody: probes carry no credential, and neither does a browser that opens the page, which is a file without
# secrets. Whatever is not named here needs one, paths that do not exist included.
OPEN_PATHS = frozenset({"/health", "/ready", "/"})
# Of those, what also a client is answered whose certificate is nobody's who may call.
PROBE_PATHS = frozenset({"/health", "/ready"})


@dataclass(frozen=True, slots=True)
class Shown:
    """What the paths beside the API show."""

    is_ready: Callable[[], bool]  # whether requests are welcome
    registry: CollectorRegistry  # of metrics
    page: Page | None


def make_app(calls: HttpCalls, api: OpenAiApi, callers: Callers, shown: Shown) -> Router:
    """An ASGI application."""
    work: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", api.chat),
        ("POST", "/v1/completions", api.complete),
        ("POST", "/v1/responses", api.respond),
        ("GET", "/v1/models", api.list_models),
        ("GET", "/v1/models/{model:path}", api.get_model),
        ("POST", "/tokenize", api.tokenize),
        ("POST", "/detokenize", api.detokenize),
    ]
    quiet = _shown(callers, shown)

    def route(path: str, handler: Handler, method: str, *, is_quiet: bool) -> Route:
        handled = Handled(handler, calls, is_quiet=is_quiet, is_open=path in OPEN_PATHS)
        return Route(path, handled, methods=[method])

    routes = [route(path, handler, method, is_quiet=False) for method, path, handler in work]
    routes += [route(path, handler, method, is_quiet=True) for method, path, handler in quiet]
    routes += [Route(path, Handled(_wrong_method, calls)) for _, path, _ in (*work, *quiet)]
    return Router(routes, redirect_slashes=False, default=Handled(_nothing_there, calls))


def for_strangers(app: ASGIApp, calls: HttpCalls) -> ASGIApp:
    """What clients have whose certificates are of nobody who may call: answers to probes."""
    refusing = Handled(_refuse, calls, is_open=True)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] in PROBE_PATHS else refusing)(scope, receive, send)

    return answer


def _shown(callers: Callers, shown: Shown) -> list[tuple[str, str, Handler]]:
    described, docs = json_answer(document()), file_answer("docs.html")

    async def ready(_request: HttpRequest) -> Answer:
        is_ready = shown.is_ready()
        return json_answer({"status": "ready" if is_ready else "not ready"}, status=200 if is_ready else 503)

    async def metrics(request: HttpRequest) -> Answer:
        callers.check_sees_all(request.headers)
        return Answer(text_of(shown.registry), media_type=TEXT_TYPE)

    async def openapi(_request: HttpRequest) -> Answer:
        return described

    async def show_docs(_request: HttpRequest) -> Answer:
        return docs

    paths: list[tuple[str, str, Handler]] = [
        ("GET", "/health", _health),
        ("GET", "/ready", ready),
        ("GET", "/version", _version),
        ("GET", "/metrics", metrics),
        ("GET", "/openapi.json", openapi),
        ("GET", "/docs", show_docs),
    ]
    if shown.page is None:
        return paths
    page = shown.page

    async def workers(request: HttpRequest) -> Answer:
        callers.check_sees_all(request.headers)
        return await page.workers(request)

    return [*paths, ("GET", "/", page.show), ("GET", "/workers", workers)]


async def _health(_request: HttpRequest) -> Answer:
    return json_answer({"status": "ok"})


async def _version(_request: HttpRequest) -> Answer:
    return json_answer({"version": version("tokenmill")})


async def _wrong_method(_request: HttpRequest) -> Answer | Events:
    raise method_not_allowed()


async def _nothing_there(_request: HttpRequest) -> Answer | Events:
    raise no_such_path()


async def _refuse(_request: HttpRequest) -> Answer | Events:
    raise client_not_accepted()
