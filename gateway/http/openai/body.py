"""A request's body as one of our request types: wrong types are refused by name, unknown fields are let pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpc.errors import ServiceError, invalid_field, malformed_json, not_implemented

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
# What clients send as a seed: a 64-bit number, with a sign or without.
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]


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
        request = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refusal(first) from None
    request.check_refused()
    return request


def _refusal(error: Any) -> ServiceError:
    if error["type"] == "json_invalid":
        return malformed_json()
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
