"""When certificates expire, as OpenSSL's own reader has it, and as metrics say it while files are replaced."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from rpc.metrics import text_of
from rpc.tls.expiry import first_expiry
from tests.certificates import DAY, Authority
from tests.rpc.scripted_service import ScriptedService, settings
from tests.serving import listening

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving import RunningServer

BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def certificate(end: dt.datetime, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | None = None) -> bytes:
    """Signed by itself; with a long name, so that lengths take two bytes and more."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o" * 64) for _ in range(8)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(BEGIN).not_valid_after(end)
    signed = builder.sign(key, hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None)
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("end", [BEGIN + DAY, dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)])
def test_a_year_of_two_digits_is_understood(end: dt.datetime):
    assert first_expiry(certificate(end)) == end.timestamp()


@pytest.mark.parametrize("year", [2050, 2999, 9999])
def test_a_year_of_four_digits_is_understood(year: int):
    end = dt.datetime(year, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    assert first_expiry(certificate(end)) == end.timestamp()


def test_any_kind_of_key_will_do():
    end = BEGIN + 900 * DAY
    assert first_expiry(certificate(end, rsa.generate_private_key(65537, 2048))) == end.timestamp()


def test_of_a_chain_the_first_to_expire_counts():
    chain = b"Bag Attributes\n" + certificate(BEGIN + 3 * DAY) + certificate(BEGIN + 2 * DAY) + b"\n"
    assert first_expiry(chain) == (BEGIN + 2 * DAY).timestamp()


def test_without_a_certificate_there_is_no_end():
    assert first_expiry(b"") is None


async def test_a_certificate_that_is_replaced_counts_at_the_next_look(tmp_path: Path):
    authority = Authority(tmp_path)
    pair = authority.pair("localhost")
    tls = {"ssl_certfile": pair.certificate, "ssl_keyfile": pair.key}
    async with listening(ScriptedService(), settings(**tls)) as server:
        assert told(server) == {"server": expiry_of(pair.certificate)}
        newer = authority.pair("localhost", file="newer", age=DAY / 2)
        pair.become(newer)
        assert told(server) == {"server": expiry_of(newer.certificate)}
        pair.certificate.write_text("nonsense")
        assert told(server) == {"server": expiry_of(newer.certificate)}, "it goes on with the one that it has"


async def test_a_service_without_tls_tells_of_no_certificate():
    async with listening(ScriptedService(), settings()) as server:
        assert told(server) == {}


def told(server: RunningServer) -> dict[str, float]:
    families = text_string_to_metric_families(text_of(server.registry).decode())
    name = "tokenmill_certificate_expiry_timestamp_seconds"
    return {
        sample.labels["certificate"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def expiry_of(file: Path) -> float:
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
