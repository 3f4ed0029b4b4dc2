"""When certificates expire, for Prometheus. The standard library reads that of a peer only, so their DER is read here.

DER (X.690) is tag, length, content. In a certificate (RFC 5280) `validity` stands behind serial number, algorithm of
the signature, and issuer.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily, Metric

from rpc.metrics import Metrics
from rpc.tls.pem import Pem

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_BEFORE_VALIDITY = 3  # serial number, algorithm, issuer
# UTCTime has two digits of the year, of 1950 to 2049 (RFC 5280, 4.1.2.5.1).
_FIRST_YEAR = 1950


class CertificateMetrics(Metrics):
    """Of the certificates that one service shows others, as they are used now."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Callable[[], Pem]] = {}
        self._read: dict[str, tuple[Pem, float | None]] = {}

    def follow(self, certificate: str, shown: Callable[[], Pem]) -> None:
        """Tell of what `shown` returns too. `certificate`: what for, "server" or "client"."""
        self._shown[certificate] = shown

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        name = "tokenmill_certificate_expiry_timestamp_seconds"
        expiry = GaugeMetricFamily(name, "When the first certificate of the chain expires.", labels=("certificate",))
        for certificate, shown in self._shown.items():
            seconds = self._expiry(certificate, shown())
            if seconds is not None:
                expiry.add_metric((certificate,), seconds)
        yield expiry

    def _expiry(self, certificate: str, pem: Pem) -> float | None:
        """Read once for each content."""
        if certificate not in self._read or self._read[certificate][0] is not pem:
            self._read[certificate] = pem, None if pem.certificate is None else first_expiry(pem.certificate)
        return self._read[certificate][1]


def first_expiry(chain: bytes) -> float | None:
    """The earliest end, in seconds since 1970, of the certificates of `chain` in PEM; None if there is none."""
    blocks = (ssl.PEM_cert_to_DER_cert(block.decode("ascii")) for block in _BLOCK.findall(chain))
    return min(map(_not_after, blocks), default=None)


def _not_after(der: bytes) -> float:
    [(_, certificate)] = _elements(der)
    _, to_be_signed = next(_elements(certificate))
    fields = [content for tag, content in _elements(to_be_signed) if tag != _VERSION]
    _, (tag, not_after) = _elements(fields[_BEFORE_VALIDITY])
    text = not_after.decode("ascii")
    if tag == _UTC_TIME:
        year = int(text[:2])
        text = f"{20 if year < _FIRST_YEAR % 100 else 19}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of what stands one behind the other."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:  # so many bytes say how long it is
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        yield tag, der[at : at + length]
        at += length
