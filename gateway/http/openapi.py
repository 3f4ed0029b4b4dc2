"""The HTTP API described for programs, made from the request types that are served."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from gateway.http.openai.body import Body
from gateway.http.openai.chat import ChatBody
from gateway.http.openai.completions import CompletionBody
from gateway.http.openai.responses_body import ResponsesBody
from gateway.http.openai.tokens import DetokenizeBody, TokenizeBody

_REF = "#/components/schemas/{model}"
_POSTS: dict[str, tuple[type[Body], str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a chat."),
    "/v1/completions": (CompletionBody, "Continue prompts."),
    "/v1/responses": (ResponsesBody, "Make a response; nothing is kept of it."),
    "/tokenize": (TokenizeBody, "The tokens of a prompt or a chat."),
    "/detokenize": (DetokenizeBody, "The text of token ids."),
}
_GETS = {
    "/v1/models": "The models that are served.",
    "/v1/models/{model}": "One of them.",
    "/health": "Whether the process answers.",
    "/ready": "Whether requests are welcome; 503 if not.",
    "/version": "The version.",
    "/metrics": "For Prometheus, in its text format 0.0.4.",
}
# Status codes that every request may be answered with.
_ERRORS = {
    "400": "Something is wrong with the request; `param` names the field.",
    "401": "A credential is needed, and none was shown, or no valid one.",
    "403": "The credential is not for this.",
    "404": "There is no such model, or path.",
    "408": "The request did not arrive in time.",
    "413": "The request is too large.",
    "429": "There is no room now; `Retry-After` says when to come back.",
    "500": "The gateway has made a mistake.",
    "503": "Nothing behind the gateway can answer now.",
    "504": "It took too long.",
}


def document() -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for path, (body, summary) in _POSTS.items():
        schema = body.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
        paths[path] = {"post": {**_operation(summary), "requestBody": {"required": True, "content": content}}}
    for path, summary in _GETS.items():
        paths[path] = {"get": _operation(summary)}
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [name]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tokenmill", "version": version("tokenmill"), "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"bearer": []}],  # none, unless the gateway is told who may call
    }


def _operation(summary: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    errors = {code: {"description": meaning, "content": error} for code, meaning in _ERRORS.items()}
    return {"summary": summary, "responses": {"200": {"description": "Done."}, **errors}}


_DESCRIPTION = (
    "OpenAI's API in front of quantized Hugging Face models. Fields that nobody knows are let pass; known ones that "
    "are not served are refused by name. A bound that is not given is the gateway's own, never 16 tokens."
)
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
