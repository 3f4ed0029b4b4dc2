"""Certificates for tests, made on the spot: an authority, and who it vouches for."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """The files of one certificate and its key."""

    certificate: Path
    key: Path

    def become(self, other: Pair) -> None:
        """Have these files hold another pair, each replaced at once, as a careful operator does it."""
        for own, new in ((self.certificate, other.certificate), (self.key, other.key)):
            replace(own, new.read_bytes())


def replace(file: Path, content: bytes | str) -> None:
    """Put `content` in the place of what `file` was, in one moment."""
    staged = file.with_suffix(".new")
    staged.write_bytes(content.encode() if isinstance(content, str) else content)
    staged.replace(file)


class Authority:
    """Signs certificates into `folder`; `file` is its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._subject, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))

    def pair(self, name: str, *names: str, file: str | None = None, age: dt.timedelta = DAY / 24) -> Pair:
        """A certificate for `name` (also the common name), other DNS names, URIs or addresses; localhost by default."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        others = [_general(one) for one in (name, *(names or ("localhost", "127.0.0.1")))]
        builder = self._builder(subject, key, age).add_extension(x509.SubjectAlternativeName(others), False)
        stem = file or name.replace("/", "_").replace(":", "_")
        pair = Pair(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, age: dt.timedelta = DAY / 24
    ) -> x509.CertificateBuilder:
        begin = dt.datetime.now(dt.UTC) - age
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + DAY)
        )


def serial_number(pem: bytes | str) -> int:
    """What tells one certificate from another."""
    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem).serial_number


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
