"""Listeners with TLS that is not as it should be, each kind on a port of its own.

Rules of this module: all certificates come from one authority, whose own is `ca.pem` in the folder, except the self-signed
one. `localhost` and `127.0.0.1` are the names of every certificate that is not about names.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Listener:
    """One port. `kind`, its name in `FaultServer.urls`; `context` None: it never shakes hands; `host`, how clients call it."""

    kind: str
    context: ssl.SSLContext | None
    host: str = "127.0.0.1"


def listeners(folder: Path) -> list[Listener]:
    """Every kind: good ("tls") and bad ones. Writes the authority's certificate and everything else into `folder`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    now = datetime.now(UTC)
    return [
        Listener("tls", _context(_issued(authority, folder, "good", now - DAY, now + DAY))),
        Listener("expired", _context(_issued(authority, folder, "expired", now - 9 * DAY, now - 2 * DAY))),
        Listener("not-yet", _context(_issued(authority, folder, "not-yet", now + 2 * DAY, now + 9 * DAY))),
        Listener("client-auth", _context(_issued(authority, folder, "client-auth", now - DAY, now + DAY, client=True))),
        Listener("wrong-host", _context(_issued(authority, folder, "wrong-host", now - DAY, now + DAY, name="other.test"))),
        Listener("self-signed", _context(_self_signed(folder, now))),
        Listener("mute", None),
    ]


def _context(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _issued(
    authority: trustme.CA, folder: Path, stem: str, since: datetime, until: datetime, client: bool = False, name: str = ""
) -> Path:
    """A certificate of the authority with its key, in one file. `client`: it is good for clients alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = _builder(key, stem, issuer.subject, since, until, name)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    signer = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return _written(folder / f"{stem}.pem", key, builder.sign(signer, SHA256()))


def _self_signed(folder: Path, now: datetime) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(key, "self-signed", _named("self-signed"), now - DAY, now + DAY, "")
    return _written(folder / "self-signed.pem", key, builder.sign(key, SHA256()))


def _builder(
    key: ec.EllipticCurvePrivateKey, stem: str, issuer: x509.Name, since: datetime, until: datetime, name: str
) -> x509.CertificateBuilder:
    from ipaddress import ip_address

    names: list[x509.GeneralName] = [x509.DNSName(name or "localhost")]
    if not name:
        names.append(x509.IPAddress(ip_address("127.0.0.1")))
    builder = x509.CertificateBuilder(issuer, _named(stem), key.public_key(), x509.random_serial_number(), since, until)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _written(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Path:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    return path
