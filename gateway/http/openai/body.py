"""A request's body as one of our request types: wrong types are refused by name, unknown fields are let pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json

from gateway.requests import MAX_PROMPT_IDS
from rpc.chat_limits import MAX_MESSAGES
from rpc.errors import ServiceError, invalid_field, malformed_json, not_implemented
from rpc.generation_params import MAX_LOGIT_BIASES


def _check_length(table: object) -> object:
    """Before its values are looked at, each of which could be wrong."""
    if isinstance(table, dict) and len(table) > MAX_LOGIT_BIASES:
        raise PydanticCustomError("too_long", f"At most {MAX_LOGIT_BIASES} entries, got {len(table)}")
    return table


Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
# What clients send as a seed: a 64-bit number, with a sign or without.
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
# Lists of any length are read to their first mistake: a million of them would keep the event loop for a second.
Element = TypeVar("Element")
Several = Annotated[list[Element], Field(fail_fast=True, max_length=MAX_MESSAGES)]
Table = Annotated[dict[str, Element], BeforeValidator(_check_length)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_PROMPT_IDS)]


# What reading a body costs goes with the values in it, not with its bytes: two million empty lists are six megabytes,
# and a second. Counted without reading it, so brackets and commas inside of texts count too.
MAX_BRACKETS = 2**18
MAX_COMMAS = MAX_PROMPT_IDS + 2**18


class Body(BaseModel):
    """What all have in common: types are meant as they are written, numbers are finite."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    # Fields of OpenAI's, or of servers like it, that change what is asked for and that we do not act on; and the values
    # with which they ask for nothing.
    refused: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def check_refused(self) -> None:
        """Refuse what we know and cannot do. Errors: ServiceError naming the field."""
        for name, harmless in self.refused.items():
            value = (self.model_extra or {}).get(name)
            if value not in (None, [], {}, False, *harmless):
                raise not_implemented(name, "this field")


BodyType = TypeVar("BodyType", bound=Body)


def parsed(kind: type[BodyType], body: bytes) -> BodyType:
    """`body`, JSON text, as a request of `kind`. Errors: ServiceError naming the field."""
    try:
        request = kind.model_validate(_json(body))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        # Of what keeps a value from being any of several kinds: what is wrong furthest inside, or not just its kind.
        raise _refusal(max(errors, key=lambda one: (len(one["loc"]), one["type"] != "string_type"))) from None
    request.check_refused()
    return request


def _json(body: bytes) -> Any:
    """Errors: ServiceError."""
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS or body.count(b",") > MAX_COMMAS:
        raise invalid_field("body", "has too many parts")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        raise malformed_json() from None


def _refusal(error: Any) -> ServiceError:
    return invalid_field(_path(error["loc"]) or "body", error["msg"][:1].lower() + error["msg"][1:])


def _path(location: Iterable[str | int]) -> str:
    """As it would be written: `messages[0].content`. What pydantic adds for the members of a union is left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _UNION_MEMBERS:
            path += f".{part}" if path else part
    return path


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "Part"})
