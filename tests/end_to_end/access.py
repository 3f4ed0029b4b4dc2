"""Credentials of every kind, as an operator and an issuer make them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

ISSUER, AUDIENCE = "https://issuer.example", "tokenmill"
HOUR = dt.timedelta(hours=1)


@dataclass
class Issuer:
    """Signs tokens with its key, whose public half `jwks` is."""

    key_id: str = "one"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return public | {"kid": self.key_id, "alg": "ES256", "use": "sig"}

    def token(self, *, lifetime: dt.timedelta = HOUR, algorithm: str = "ES256", **claims: Any) -> str:
        given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team", "exp": dt.datetime.now(dt.UTC) + lifetime, **claims}
        kept = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(kept, self.key, algorithm, headers={"kid": self.key_id})


def write_jwks(file: Path, *issuers: Issuer) -> Path:
    file.write_text(json.dumps({"keys": [issuer.jwk for issuer in issuers]}))
    return file


def entry(key: str, **given: Any) -> dict[str, Any]:
    """What a key file holds of `key`."""
    return {"name": key.partition("-")[0], "sha256": hashlib.sha256(key.encode()).hexdigest(), **given}


def write_keys(file: Path, *entries: dict[str, Any]) -> Path:
    file.write_text(json.dumps({"keys": list(entries)}))
    return file


# Of every kind of credential, what a gateway that knows `right` and `narrow` makes of it.
RIGHT_KEY, NARROW_KEY, EXPIRED_KEY = "right-4f1c9a7be2", "narrow-93b1d0c7aa", "expired-0a4be29c11"


def credentials(issuer: Issuer) -> dict[str, tuple[str | None, str]]:
    """By its name in the matrix: what `authorization` says, and the reason of the refusal; empty: none."""
    impostor = Issuer(issuer.key_id)
    return {
        "none": (None, "MISSING_CREDENTIALS"),
        "another scheme": ("Basic dXNlcjpwYXNz", "INVALID_CREDENTIALS"),
        "wrong key": ("Bearer wrong-11111111", "INVALID_CREDENTIALS"),
        "expired key": (f"Bearer {EXPIRED_KEY}", "EXPIRED_CREDENTIALS"),
        "right key": (f"Bearer {RIGHT_KEY}", ""),
        "key for another model": (f"Bearer {NARROW_KEY}", "MODEL_NOT_ALLOWED"),
        "token of an impostor": (f"Bearer {impostor.token()}", "INVALID_CREDENTIALS"),
        "expired token": (f"Bearer {issuer.token(lifetime=-HOUR)}", "EXPIRED_CREDENTIALS"),
        "right token": (f"Bearer {issuer.token()}", ""),
        "token for another model": (f"Bearer {issuer.token(models=['another'])}", "MODEL_NOT_ALLOWED"),
    }


def write_access(folder: Path, issuer: Issuer) -> dict[str, Any]:
    """The gateway's settings, with files for both kinds."""
    past = (dt.datetime.now(dt.UTC) - HOUR).isoformat()
    keys = [
        entry(RIGHT_KEY, tenant="team"),
        entry(NARROW_KEY, models=["another"]),
        entry(EXPIRED_KEY, expires=past),
    ]
    return {
        "api_key_file": write_keys(folder / "keys.json", *keys),
        "jwt_jwks_file": write_jwks(folder / "jwks.json", issuer),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    }
