"""Fingerprints: how a peer is named."""

from __future__ import annotations

import hashlib

import pytest

from cloister.errors import IdentityError
from cloister.wire.peers import check_fingerprint, fingerprint

A = "sha256:" + "0a" * 32


def test_a_fingerprint_is_the_hash_of_the_key() -> None:
    assert fingerprint(b"key") == "sha256:" + hashlib.sha256(b"key").hexdigest()
    assert check_fingerprint(fingerprint(b"key")) == fingerprint(b"key")


@pytest.mark.parametrize("text", ["", A[7:], A.upper(), A[:-1], A + "0", A + "\n", " " + A, "sha512:" + "0a" * 32])
def test_what_is_none(text: str) -> None:
    with pytest.raises(IdentityError, match="is not a fingerprint"):
        check_fingerprint(text)
