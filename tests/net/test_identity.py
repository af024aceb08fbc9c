"""An identity is a file; what others know is its key's hash."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cloister.errors import IdentityError
from cloister.net.certificates import fingerprint_of, public_issuer
from cloister.net.identity import Identity

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "me.key"


@pytest.mark.parametrize("algorithm", ["ed25519", "p256"])
def test_a_new_identity_is_one_private_file(path, algorithm):
    identity = Identity.create(path, days=10, algorithm=algorithm, now=NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert identity.algorithm == algorithm
    assert identity.not_before == NOW - timedelta(hours=1)
    assert identity.not_after == NOW + timedelta(days=10)
    assert Identity.load(path, now=NOW) == identity
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert fingerprint_of(certificate.public_bytes(Encoding.DER)) == identity.fingerprint


def test_the_fingerprint_is_the_hash_of_the_public_key_info(path):
    identity = Identity.create(path)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert identity.fingerprint == "sha256:" + hashlib.sha256(spki).hexdigest()
    assert spki in certificate.tbs_certificate_bytes  # as it stands in the certificate, too


@pytest.mark.slow
def test_the_umask_does_not_open_the_file(path):
    # In a process of its own: the mask belongs to the whole process.
    program = (
        "import os, sys; os.umask(0); from cloister.net.identity import Identity; Identity.create(sys.argv[1]);"
        " Identity.renew(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_overwritten(path):
    path.write_text("something precious")
    with pytest.raises(IdentityError, match="is not overwritten"):
        Identity.create(path)
    assert path.read_text() == "something precious"


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_a_life_that_makes_no_sense(path, days):
    with pytest.raises(IdentityError, match="between 1 and 36500 days"):
        Identity.create(path, days=days)
    assert not path.exists()


def test_an_unknown_algorithm(path):
    with pytest.raises(IdentityError, match="ed25519 or p256"):
        Identity.create(path, algorithm="rsa")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(IdentityError, match="cannot be written"):
        Identity.create(tmp_path / "none" / "me.key")


def test_renewing_keeps_the_key(path):
    old = Identity.create(path, days=10, now=NOW)
    key_before = path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    new = Identity.renew(path, days=20, now=NOW + timedelta(days=100))
    assert new.fingerprint == old.fingerprint
    assert new.not_after == NOW + timedelta(days=120)
    assert path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0] == key_before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["me.key"]


def test_renewing_follows_a_link(path, tmp_path):
    Identity.create(path)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    Identity.renew(link)
    assert link.is_symlink()


def test_an_expired_identity_says_how_to_renew(path):
    Identity.create(path, days=10, now=NOW)
    with pytest.raises(IdentityError, match=r"expired on 2026-06-11.*cloister key renew"):
        Identity.load(path, now=NOW + timedelta(days=11))
    assert Identity.read(path).not_after == NOW + timedelta(days=10)


def test_an_identity_from_the_future(path):
    Identity.create(path, days=10, now=NOW)
    with pytest.raises(IdentityError, match="is this clock right"):
        Identity.load(path, now=NOW - timedelta(days=1))


def test_a_missing_file_says_how_to_make_one(path):
    with pytest.raises(IdentityError, match="cloister key new"):
        Identity.load(path)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o777])
def test_a_file_that_others_may_read(path, mode):
    Identity.create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load(path)


def test_a_folder_is_no_identity(tmp_path):
    with pytest.raises(IdentityError, match=r"cannot be read|is not a file"):
        Identity.load(tmp_path)


def other_files() -> dict[str, bytes]:
    key = ed25519.Ed25519PrivateKey.generate()
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    issuer = public_issuer().public_bytes(Encoding.PEM)
    return {
        "empty": b"",
        "garbage": b"\x00\xff" * 50,
        "key only": plain,
        "certificate only": issuer,
        "pass phrase": locked + issuer,
        "another's certificate": plain + issuer,
        "too long": b"\n" * (1 << 17),
    }


@pytest.mark.parametrize("what", list(other_files()))
def test_what_is_not_an_identity(path, what):
    path.write_bytes(other_files()[what])
    path.chmod(0o600)
    with pytest.raises(IdentityError) as caught:
        Identity.load(path)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 2048), lambda: ec.generate_private_key(ec.SECP384R1())]
)
def test_other_kinds_of_keys(path, make):
    key = make()
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    path.write_bytes(pem)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="neither Ed25519 nor P-256"):
        Identity.load(path)
