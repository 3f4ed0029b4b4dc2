"""Which tokens are believed: those of the issuer, for us, signed with its private key, for now."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.access.access import access_from
from gateway.access.credentials import credential_of
from gateway.access.identity import Identity, Permission
from gateway.access.tokens import LEEWAY_SECONDS, TokenRules, read_verifier
from gateway.settings import GatewaySettings
from rpc.errors import ServiceError
from rpc.reloaded import RefusedContentError
from tests.end_to_end.access import AUDIENCE, ISSUER, Issuer, write_jwks

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.access.tokens import TokenVerifier

RULES = TokenRules(ISSUER, AUDIENCE, "sub")
US = Issuer()


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    return read_verifier(write_jwks(tmp_path / "jwks.json", US), RULES)


def seconds(count: float) -> dt.timedelta:
    return dt.timedelta(seconds=count)


def encoded(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], signature: bytes = b"") -> str:
    claims = jwt.decode(US.token(), options={"verify_signature": False})
    return f"{encoded(header)}.{encoded(claims)}.{encoded(signature)}"


def signed_with_the_public_key() -> str:
    """The classic: the public key as the secret of an HMAC."""
    header = {"alg": "HS256", "typ": "JWT", "kid": "one"}
    text = forged(header).rpartition(".")[0]
    public = US.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"{text}.{encoded(hmac.digest(public, text.encode(), hashlib.sha256))}"


def test_claims_say_who_it_is_and_for_what(verifier: TokenVerifier) -> None:
    assert verifier.identity(US.token()) == Identity("jwt:team", "team")
    narrow = verifier.identity(US.token(models=["tiny"]))
    assert narrow.permission == Permission(frozenset({"tiny"}))
    assert verifier.identity(US.token(models=[])).permission == Permission(frozenset())
    assert verifier.identity(US.token(aud=["others", AUDIENCE])).tenant == "team"


def test_another_claim_may_name_the_tenant(tmp_path: Path) -> None:
    rules = TokenRules(ISSUER, AUDIENCE, "org")
    verifier = read_verifier(write_jwks(tmp_path / "jwks.json", US), rules)
    assert verifier.identity(US.token(org="mill")).tenant == "mill"
    with pytest.raises(ServiceError):
        verifier.identity(US.token())


INVALID = {
    "no token": lambda: "x",
    "no signature": lambda: forged({"alg": "none", "kid": "one"}),
    "an empty signature": lambda: forged({"alg": "ES256", "kid": "one"}),
    "the public key as a secret": signed_with_the_public_key,
    "another's key under the id": lambda: Issuer("one").token(),
    "an id that nobody has": lambda: Issuer("two", US.key).token(),
    "another issuer": lambda: US.token(iss="https://other.example"),
    "no issuer": lambda: US.token(iss=None),
    "for others": lambda: US.token(aud="others"),
    "for nobody": lambda: US.token(aud=None),
    "without an end": lambda: US.token(exp=None),
    "an end that is no time": lambda: US.token(exp="never"),
    "not yet": lambda: US.token(nbf=dt.datetime.now(dt.UTC) + seconds(LEEWAY_SECONDS + 30)),
    "no tenant": lambda: US.token(sub=None),
    "a tenant that cannot be printed": lambda: US.token(sub="a\nb"),
    "models that are no list": lambda: US.token(models="tiny"),
}


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID)
def test_what_is_not_believed(verifier: TokenVerifier, make: Any) -> None:
    with pytest.raises(ServiceError) as caught:
        verifier.identity(make())
    assert caught.value.reason == "INVALID_CREDENTIALS"


def test_clocks_may_differ_a_little_and_no_more(verifier: TokenVerifier) -> None:
    verifier.identity(US.token(lifetime=seconds(-LEEWAY_SECONDS / 2)))
    with pytest.raises(ServiceError) as caught:
        verifier.identity(US.token(lifetime=seconds(-LEEWAY_SECONDS - 1)))
    assert caught.value.reason == "EXPIRED_CREDENTIALS"


def test_a_token_that_was_believed_expires_all_the_same(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = US.token(lifetime=seconds(-LEEWAY_SECONDS / 2))
    verifier.identity(token)
    later = dt.datetime.now(dt.UTC).timestamp() + LEEWAY_SECONDS
    monkeypatch.setattr("gateway.access.tokens.time.time", lambda: later)
    monkeypatch.setattr("jwt.api_jwt.datetime", _Later)
    with pytest.raises(ServiceError) as caught:
        verifier.identity(token)
    assert caught.value.reason == "EXPIRED_CREDENTIALS"


class _Later(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return dt.datetime.now(tz) + seconds(LEEWAY_SECONDS)


def jwks(*keys: Any) -> str:
    return json.dumps({"keys": keys})


PRIVATE = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
REFUSED_FILES = {
    "no JSON": "keys",
    "no keys": jwks(),
    "a secret": jwks({"kty": "oct", "k": encoded(b"s" * 32), "kid": "one"}),
    "a private key": jwks({**PRIVATE, "kid": "one", "alg": "ES256"}),
    "two without ids": jwks({**US.jwk, "kid": None}, {**Issuer().jwk, "kid": None}),
    "a key for something else alone": jwks({**US.jwk, "use": "enc"}),
}


@pytest.mark.parametrize("content", REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_a_file_is_refused_that_holds_anything_but_public_keys(tmp_path: Path, content: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(content)
    with pytest.raises(RefusedContentError, match="--jwt-jwks-file"):
        read_verifier(file, RULES)


def test_rsa_is_known_too_and_one_key_needs_no_id(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    file = tmp_path / "jwks.json"
    file.write_text(jwks(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)))
    claims = jwt.decode(US.token(), options={"verify_signature": False})
    assert read_verifier(file, RULES).identity(jwt.encode(claims, key, "RS256")).tenant == "team"
    with pytest.raises(ServiceError):  # of the same key, but not the algorithm that the file says
        read_verifier(file, RULES).identity(jwt.encode(claims, key, "PS512"))


CREDENTIALS = {
    "twice": [("authorization", "Bearer a"), ("authorization", "Bearer b")],
    "bytes": [("authorization", b"Bearer a")],
    "nothing after the scheme": [("authorization", "Bearer ")],
    "no scheme": [("authorization", "abc")],
    "not ASCII": [("authorization", "Bearer \u00e4")],
    "too long": [("authorization", "Bearer " + "a" * 9000)],
}


@pytest.mark.parametrize("metadata", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_credential_is_one_text(metadata: Any) -> None:
    with pytest.raises(ServiceError) as caught:
        credential_of(metadata)
    assert caught.value.reason == "INVALID_CREDENTIALS"


def test_the_scheme_is_read_in_any_case() -> None:
    assert credential_of([("authorization", "bearer  abc")]) == "abc"


@pytest.mark.parametrize("given", [{"jwt_issuer": ISSUER}, {"jwt_audience": AUDIENCE}])
def test_what_is_half_given_is_refused_by_name(tmp_path: Path, given: dict[str, str]) -> None:
    behind = {"tokenizer": ("a:1",), "worker": ("b:1",)}
    with pytest.raises(RefusedContentError, match="needs --jwt-jwks-file"):
        access_from(GatewaySettings(**behind, **given))  # type: ignore[arg-type]
    file = write_jwks(tmp_path / "jwks.json", US)
    with pytest.raises(RefusedContentError, match="--jwt-jwks-file needs"):
        access_from(GatewaySettings(**behind, **given, jwt_jwks_file=file))  # type: ignore[arg-type]
