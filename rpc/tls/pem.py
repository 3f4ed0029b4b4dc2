"""The files of one side of a TLS connection: its certificate with its key, and whose peers it accepts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from rpc.reloaded import RefusedContentError, read_file


@dataclass(frozen=True, slots=True)
class PemFiles:
    """Where they are. `prefix` is what their flags begin with, such as "--ssl"."""

    prefix: str
    certificate: Path | None
    key: Path | None
    authorities: Path | None

    @property
    def paths(self) -> list[Path]:
        """Those that there are."""
        return [path for path in (self.certificate, self.key, self.authorities) if path is not None]

    def check_pair(self) -> None:
        """Errors: RefusedContentError if a certificate has no key, or a key no certificate."""
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certfile", "keyfile") if self.key is None else ("keyfile", "certfile")
            raise RefusedContentError(f"{self.prefix}-{given} needs {self.prefix}-{missing}")


@dataclass(frozen=True, slots=True)
class Pem:
    """What they hold; checked: the key is the certificate's."""

    certificate: bytes | None
    key: bytes | None
    authorities: bytes | None


def read_pem(files: PemFiles) -> Pem:
    """Read and check. Errors: RefusedContentError, also while one file has been replaced and the other not yet."""
    pem = _read(files)
    load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    if _read(files) != pem:  # what was checked is not what was read
        raise RefusedContentError(f"{files.prefix}-certfile: the files are being replaced")
    return pem


def load_into(context: ssl.SSLContext, files: PemFiles) -> None:
    """Have `context` use the files. Errors: RefusedContentError naming the flag."""
    if files.certificate is not None and files.key is not None:
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            why = f"not a certificate with its own unencrypted key in {files.key}, both in PEM"
            raise RefusedContentError(f"{files.prefix}-certfile: {files.certificate}: {why}") from error
    if files.authorities is not None:
        try:
            context.load_verify_locations(files.authorities)
        except (OSError, ValueError) as error:
            why = "not one certificate or more, in PEM"
            raise RefusedContentError(f"{files.prefix}-ca-certs: {files.authorities}: {why}") from error


def _read(files: PemFiles) -> Pem:
    return Pem(
        certificate=None if files.certificate is None else read_file(files.certificate, f"{files.prefix}-certfile"),
        key=None if files.key is None else read_file(files.key, f"{files.prefix}-keyfile"),
        authorities=None if files.authorities is None else read_file(files.authorities, f"{files.prefix}-ca-certs"),
    )


def _no_password() -> bytes:
    """For a key that is encrypted; without it OpenSSL would ask at the terminal, and wait."""
    return b""
