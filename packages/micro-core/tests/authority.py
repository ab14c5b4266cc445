"""A certificate authority of the tests."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOW = datetime.now(UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates, and writes them and itself as PEM files into ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        own = _builder(self._name, self._name, self._key, 2).add_extension(basic, critical=True)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, host: str = "127.0.0.1", days: int = 2) -> dict[str, Path]:
        """``cert`` and ``key`` for a host; expired with negative ``days``."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key, days).add_extension(_alt(host), False)
        cert = builder.sign(self._key, hashes.SHA256())
        return self._write(name, cert, key)

    def self_signed(self, name: str, host: str = "127.0.0.1") -> dict[str, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), _name(name), key, 2).add_extension(_alt(host), False)
        return self._write(name, builder.sign(key, hashes.SHA256()), key)

    def _write(
        self, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> dict[str, Path]:
        files = {"cert": self._folder / f"{name}.pem", "key": self._folder / f"{name}.key"}
        plain = serialization.NoEncryption()
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files["key"].write_bytes(key.private_bytes(pem, form, plain))
        files["cert"].write_bytes(_pem(cert))
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    until = _NOW + timedelta(days=days)
    return builder.not_valid_before(min(_NOW, until) - timedelta(days=1)).not_valid_after(until)


def _alt(host: str) -> x509.SubjectAlternativeName:
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    return x509.SubjectAlternativeName([name])


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
