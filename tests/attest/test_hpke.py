"""Sealed secrets: they open for one key and one purpose, and in no other case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.hpke import _SUITE, SEALED_SECRET_BYTES, SealingKey, seal
from cloister.attest.transcript import HPKE_KEY_BYTES
from cloister.errors import EvidenceError, LimitError, NotGenuineError
from cloister.wire.limits import SEALED_BYTES, SECRET_BYTES

KEY = SealingKey.generate()
INFO = b"label\0" + bytes(64) + b"mri-key"
SEALED = seal(b"a key of 32 bytes, say", public_key=KEY.public_bytes(), info=INFO)


@given(st.binary(min_size=1, max_size=SECRET_BYTES), st.binary(max_size=200))
def test_a_secret_comes_back_and_its_length_does_not_show(secret: bytes, info: bytes) -> None:
    sealed = seal(secret, public_key=KEY.public_bytes(), info=info)
    assert len(sealed) == SEALED_SECRET_BYTES <= SEALED_BYTES
    assert KEY.unseal(sealed, info=info) == secret


def test_a_secret_is_sealed_differently_each_time() -> None:
    assert seal(b"a key of 32 bytes, say", public_key=KEY.public_bytes(), info=INFO) != SEALED


def test_the_public_key_is_as_long_as_transcripts_have_it() -> None:
    assert len(KEY.public_bytes()) == HPKE_KEY_BYTES
    assert SealingKey.generate().public_bytes() != KEY.public_bytes()


def test_another_key() -> None:
    with pytest.raises(NotGenuineError):
        SealingKey.generate().unseal(SEALED, info=INFO)


@pytest.mark.parametrize("info", [b"", INFO[:-1], INFO + b"x", INFO.replace(b"mri-key", b"ecg-key")])
def test_another_purpose(info: bytes) -> None:
    with pytest.raises(NotGenuineError, match="for something else"):
        KEY.unseal(SEALED, info=info)


@pytest.mark.slow
@pytest.mark.parametrize("at", [*range(0, SEALED_SECRET_BYTES, 97), SEALED_SECRET_BYTES - 1])
def test_flips(at: int) -> None:
    changed = bytearray(SEALED)
    changed[at] ^= 1
    with pytest.raises(NotGenuineError):
        KEY.unseal(bytes(changed), info=INFO)


@pytest.mark.parametrize("sealed", [b"", SEALED[:-1], SEALED[:1120], SEALED + b"\0", bytes(SEALED_SECRET_BYTES)])
def test_other_lengths_and_zeros(sealed: bytes) -> None:
    with pytest.raises(NotGenuineError):
        KEY.unseal(sealed, info=INFO)


@pytest.mark.parametrize("size", [0, SECRET_BYTES + 1])
def test_secrets_that_are_too_short_or_too_long(size: int) -> None:
    with pytest.raises(LimitError, match="1 to 4096"):
        seal(bytes(size), public_key=KEY.public_bytes(), info=INFO)


@pytest.mark.parametrize(
    "public_key",
    [
        pytest.param(b"", id="none"),
        pytest.param(KEY.public_bytes()[:-1], id="too short"),
        pytest.param(b"\xff" * 1184 + KEY.public_bytes()[1184:], id="not reduced"),
        pytest.param(KEY.public_bytes()[:1184] + bytes(32), id="small order"),
    ],
)
def test_keys_that_nothing_can_be_sealed_to(public_key: bytes) -> None:
    with pytest.raises(EvidenceError):
        seal(b"a", public_key=public_key, info=INFO)


@given(st.binary(min_size=1, max_size=64))
def test_garbage(pattern: bytes) -> None:
    sealed = (pattern * SEALED_SECRET_BYTES)[:SEALED_SECRET_BYTES]
    with pytest.raises(NotGenuineError):
        KEY.unseal(sealed, info=INFO)


@pytest.mark.parametrize(
    "padded",
    [
        pytest.param(bytes(2 + SECRET_BYTES), id="empty"),
        pytest.param((SECRET_BYTES + 1).to_bytes(2) + bytes(SECRET_BYTES), id="longer than there is"),
        pytest.param((1).to_bytes(2) + b"ab".ljust(SECRET_BYTES, b"\0"), id="more after it"),
    ],
)
def test_padding_is_strict(padded: bytes) -> None:
    sealed = _SUITE.encrypt(padded, KEY._key.public_key(), info=INFO)
    with pytest.raises(NotGenuineError, match="padded"):
        KEY.unseal(sealed, info=INFO)
