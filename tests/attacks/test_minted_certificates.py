"""Attack: make a certificate instead of being given one.

The issuer of all certificates is public, so anyone can make a valid certificate for any key they hold. It gets them
nothing: a peer is its key. And no member's certificate is an issuer.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.errors import PeerMismatchError, PeerRefusedError, UnreachableError
from cloister.net import certificates
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from tests.support.tls import SOON, hosting, make_identity

NOW = datetime.now(UTC)


def parts(identity: Identity) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    pem = identity.path.read_bytes()
    key = load_pem_private_key(pem, None)
    assert isinstance(key, Ed25519PrivateKey)
    return key, x509.load_pem_x509_certificate(pem)


def mint(
    subject: Ed25519PrivateKey, *, issuer: Ed25519PrivateKey, name: x509.Name, ca: bool = False
) -> x509.Certificate:
    """A certificate as this project makes them, but for any issuer."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "minted")]))
        .issuer_name(name)
        .public_key(subject.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, None)
    )


def write(path: Path, key: Ed25519PrivateKey, *chain: x509.Certificate) -> Identity:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
    path.chmod(0o600)
    return Identity.load(path)


def certified_by_the_public_issuer(folder: Path, victim: Identity) -> Identity:
    del victim
    key = Ed25519PrivateKey.generate()
    issuer, name = certificates.issuer_key(), certificates.public_issuer().subject
    return write(folder / "minted.key", key, mint(key, issuer=issuer, name=name))


def certified_by_a_member(folder: Path, victim: Identity) -> Identity:
    """The attacker is a member (its own key stands for the victim's here), and lets its certificate issue another."""
    member_key, member = parts(victim)
    key = Ed25519PrivateKey.generate()
    return write(folder / "minted.key", key, mint(key, issuer=member_key, name=member.subject), member)


def certified_by_an_issuer_of_ones_own(folder: Path, victim: Identity) -> Identity:
    """The public issuer certifies an intermediate issuer, and that one the attacker."""
    del victim
    middle_key, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root, name = certificates.issuer_key(), certificates.public_issuer().subject
    middle = mint(middle_key, issuer=root, name=name, ca=True)
    return write(folder / "minted.key", key, mint(key, issuer=middle_key, name=middle.subject), middle)


def certified_by_a_namesake(folder: Path, victim: Identity) -> Identity:
    """An issuer with the public issuer's name and another key."""
    del victim
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    return write(folder / "minted.key", key, mint(key, issuer=other, name=certificates.public_issuer().subject))


def with_the_victims_certificate_behind(folder: Path, victim: Identity) -> Identity:
    """A valid certificate of its own first, the victim's after it: the first one is the one whose key is proved."""
    _, certificate = parts(victim)
    own = make_identity(folder, "own")
    key, own_certificate = parts(own)
    return write(folder / "minted.key", key, own_certificate, certificate)


MINTED = [
    certified_by_the_public_issuer,
    certified_by_a_member,
    certified_by_an_issuer_of_ones_own,
    certified_by_a_namesake,
    with_the_victims_certificate_behind,
]


@pytest.fixture
def bob(tmp_path):
    return make_identity(tmp_path, "bob")


@pytest.fixture
def carol(tmp_path):
    return make_identity(tmp_path, "carol")


@pytest.mark.slow
@pytest.mark.parametrize("make", MINTED)
def test_a_minted_caller_is_refused(make, bob, carol, tmp_path):
    minted = make(tmp_path, carol)
    with hosting(bob, carol) as host:
        with pytest.raises(PeerRefusedError):
            greet(host.dial(minted), purpose="session", software="test", wait_s=SOON)
        assert host.seen == []
        host.session(carol)
    assert host.seen == [carol.fingerprint]


@pytest.mark.parametrize("make", MINTED)
def test_a_minted_worker_is_refused(make, bob, carol, tmp_path):
    minted = make(tmp_path, bob)
    with hosting(minted, carol) as host:
        host.identity = bob  # the one that the caller means to reach
        with pytest.raises((PeerMismatchError, UnreachableError)):
            host.dial(carol)


@pytest.mark.parametrize("make", [certified_by_a_member, certified_by_an_issuer_of_ones_own])
def test_a_chain_is_refused_even_where_the_key_is_known(make, bob, carol, tmp_path):
    """Not by the pin alone: certificates that are no issuers issue nothing."""
    minted = make(tmp_path, carol)
    with hosting(bob, minted) as host, pytest.raises(PeerRefusedError):
        greet(host.dial(minted), purpose="session", software="test", wait_s=SOON)
    assert host.seen == []


def test_another_certificate_for_a_known_key_is_that_peer(bob, carol, tmp_path):
    """A renewed certificate needs nobody's attention: the key is what is known."""
    key, _ = parts(carol)
    issuer, name = certificates.issuer_key(), certificates.public_issuer().subject
    again = write(tmp_path / "again.key", key, mint(key, issuer=issuer, name=name))
    assert again.fingerprint == carol.fingerprint
    with hosting(bob, carol) as host:
        host.session(again)
    assert host.seen == [carol.fingerprint]


def test_a_certificate_without_its_key_proves_nothing(bob, carol, tmp_path):
    """Certificates are public. TLS has the holder sign with the key; here the signature is another key's."""
    _, certificate = parts(carol)
    own = Ed25519PrivateKey.generate()
    pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "stolen.key"
    path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
    path.chmod(0o600)
    with pytest.raises(ValueError, match="for another key"):
        Identity.load(path)
    spki = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki not in certificate.public_bytes(Encoding.DER)
