"""Certificates for servers and clients of a test, signed by an authority that the test makes, with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Certificate:
    """The files of one certificate, in PEM format."""

    certificate: Path
    key: Path
    ca: Path
    """The certificate of the authority that signed it."""


class Authority:
    """
    An authority that signs certificates.

    Args:
        folder: Where its files are.

        name: Its name.
    """

    def __init__(self, folder: Path, name: str):
        self.folder = folder / name
        self.folder.mkdir()
        self.ca, self._key = self.folder / "ca.pem", self.folder / "ca.key"
        _openssl(
            "req", "-x509", *_NEW, "-keyout", self._key, "-out", self.ca, "-subj", f"/CN={name}", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def sign(self, name: str, *, expired: bool = False) -> Certificate:
        """Return a certificate for the host *name*, valid since today, or until yesterday if it has *expired*."""
        key, request, found = (self.folder / f"{name}.{each}" for each in ("key", "csr", "pem"))
        _openssl("req", *_NEW, "-keyout", key, "-out", request, "-subj", f"/CN={name}",
                 "-addext", f"subjectAltName=DNS:{name}")  # fmt: skip
        ends = ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"] if expired else ["-days", "2"]
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-out", found,
                 "-copy_extensions", "copyall", *ends)  # fmt: skip
        return Certificate(certificate=found, key=key, ca=self.ca)


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
