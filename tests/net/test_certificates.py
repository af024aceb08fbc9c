"""The public issuer is the same everywhere, and a certificate is read for its key alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.errors import IdentityError
from cloister.net.certificates import PUBLIC_ISSUER, fingerprint_of, public_issuer


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"garbage"])
def test_a_fingerprint_of_garbage(data):
    with pytest.raises(IdentityError):
        fingerprint_of(data)


def test_the_public_issuer_is_the_same_everywhere():
    seed = hashlib.sha256(PUBLIC_ISSUER).digest()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
    issuer = public_issuer()
    assert issuer.public_key() == key
    assert hashlib.sha256(issuer.public_bytes(Encoding.DER)).hexdigest() == (
        "1385032007fb1284277d8b1747d70fb4ee6ba0ca7c80be6d7030f14e7715834a"
    )


def test_the_page_tells_how_the_public_issuer_is_made():
    page = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
    assert f"\n{PUBLIC_ISSUER.decode()}\n" in page
