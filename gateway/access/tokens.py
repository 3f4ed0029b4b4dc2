"""Tokens (JWT): signed by an issuer whose public keys a file holds (JWKS), for us, and not expired."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from gateway.access.identity import Identity, Permission
from gateway.tenants import ACCEPTED_NAME
from rpc.errors import expired_credentials, invalid_credentials
from rpc.reloaded import RefusedContentError, read_file

FLAG = "--jwt-jwks-file"
# Signatures that are made with a private key alone: who can verify them cannot make them.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}  # of PyJWT's names
)
LEEWAY_SECONDS = 30  # that the issuer's clock may differ from ours
MODELS_CLAIM = "models"
# Verified tokens that are remembered: verifying costs 50 to 200 µs of the event loop, and callers send theirs again.
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token has to say."""

    issuer: str
    audience: str
    tenant_claim: str


class TokenVerifier:
    """Verifies with the keys of one JWKS file; event loop only."""

    def __init__(self, keys: Mapping[str | None, jwt.PyJWK], rules: TokenRules) -> None:
        """`keys`: by their ids."""
        self._keys = keys
        self._rules = rules
        self._verified: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()  # by SHA-256; and until when

    def identity(self, token: str) -> Identity:
        """Who shows `token`. Errors: ServiceError (UNAUTHENTICATED)."""
        digest = hashlib.sha256(token.encode()).digest()
        if known := self._verified.get(digest):
            identity, until = known
            if time.time() < until:
                return identity
            del self._verified[digest]
        claims = self._claims(token)
        identity = self._identity_of(claims)
        self._verified[digest] = identity, float(claims["exp"]) + LEEWAY_SECONDS
        if len(self._verified) > MAX_REMEMBERED:
            self._verified.popitem(last=False)
        return identity

    def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", self._rules.tenant_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise expired_credentials() from None
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, ArithmeticError):
            raise invalid_credentials() from None
        return claims

    def _key(self, key_id: object) -> jwt.PyJWK:
        """The key of this id; a token that names none is for the only key there is. Errors: KeyError."""
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys[str(key_id)]

    def _identity_of(self, claims: Mapping[str, Any]) -> Identity:
        tenant, models = claims[self._rules.tenant_claim], claims.get(MODELS_CLAIM)
        if not isinstance(tenant, str) or not ACCEPTED_NAME.fullmatch(tenant):
            raise invalid_credentials()
        if models is None:
            return Identity(f"jwt:{tenant}", tenant)
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise invalid_credentials()
        return Identity(f"jwt:{tenant}", tenant, Permission(frozenset(models)))


def read_verifier(path: Path, rules: TokenRules) -> TokenVerifier:
    """Read a JWKS file. Errors: RefusedContentError; for a key that is a secret, too: it has no place there."""
    raw = read_file(path, FLAG)
    try:
        found = [key for key in json.loads(raw)["keys"] if key.get("use", "sig") == "sig"]
        keys = [jwt.PyJWK.from_dict(key) for key in found]
    except (jwt.PyJWTError, ValueError, KeyError, TypeError, AttributeError):
        raise RefusedContentError(f"{FLAG}: {path}: not a JSON Web Key Set whose keys are all understood") from None
    is_secret = any("d" in key or key["kty"] == "oct" for key in found)
    if not keys or is_secret or any(key.algorithm_name not in ALGORITHMS for key in keys):
        names = ", ".join(sorted(ALGORITHMS))
        raise RefusedContentError(f"{FLAG}: {path}: needs public keys for {names}, and no others")
    by_id = {key.key_id: key for key in keys}
    if len(by_id) < len(keys):
        raise RefusedContentError(f"{FLAG}: {path}: each of several keys needs a `kid` of its own")
    return TokenVerifier(by_id, rules)
