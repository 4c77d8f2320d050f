"""Certificates for one test run: an authority, a server at 127.0.0.1, and a client, made by `openssl`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import program

CLIENT = "a-luthien"


@dataclass(frozen=True)
class Certificates:
    """Where they are, in PEM."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def made_in(directory: Path) -> Certificates:
    """Makes them in an empty directory; good for a day."""
    made = Certificates(
        *(directory / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key"))
    )
    ca_key = directory / "ca-key.pem"
    authority = ("-subj", "/CN=a-test-authority", "-addext", "keyUsage=critical,keyCertSign")
    _openssl("req", "-x509", *_key(ca_key), "-out", made.authority, "-days", "1", *authority)
    for name, certificate, key in (
        ("127.0.0.1", made.server, made.server_key),
        (CLIENT, made.client, made.client_key),
    ):
        extensions = directory / f"{name}.cnf"
        # From Python 3.13 on, a certificate must say whose key has signed it (RFC 5280).
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        request = directory / f"{name}.csr"
        _openssl("req", "-new", *_key(key), "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", made.authority, "-CAkey", ca_key, "-CAcreateserial", "-days", "1", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signing)
    return made


def _key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True, timeout=60)
