"""Signatures that someone would like to count, and charters that read one way and mean another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloister.charter.signatures import check_signed, decode, encode, sign
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from tests.support.charters import charter, fingerprint_of, key_of, member, signatures, text

AGREED = charter()


def test_a_signature_of_another_charter(subtests: pytest.Subtests) -> None:
    owners = signatures(AGREED)
    for name, other in {
        "another floor": charter(floor="3"),
        "the next serial": charter(serial=2, supersedes=AGREED.digest),
        "another name": parse_charter(text().replace("stroke", "heart")),
    }.items():
        with subtests.test(name):
            with pytest.raises(CharterError, match="for another charter"):
                check_signed(other, signatures=owners)
            relabelled = [replace(signature, charter=other.digest) for signature in owners]
            with pytest.raises(CharterError, match="not valid"):
                check_signed(other, signatures=relabelled)


def test_a_stranger_counts_for_nobody() -> None:
    own = parse_charter(text() + member("mallory").replace("owner", "auditor"))
    stranger = sign(own, key=key_of("mallory"))
    with pytest.raises(CharterError, match="no member of"):
        check_signed(AGREED, signatures=[*signatures(AGREED), replace(stranger, charter=AGREED.digest)])
    for name in ("bob", "alice", "chuck"):
        others = [owner.name for owner in AGREED.owners if owner.name != name]
        posing = replace(stranger, charter=AGREED.digest, key=fingerprint_of(name))
        with pytest.raises(CharterError, match="another public key"):
            check_signed(AGREED, signatures=[*signatures(AGREED, *others), posing])


def test_one_owner_cannot_sign_for_another() -> None:
    bob = signatures(AGREED, "bob")[0]
    with pytest.raises(CharterError, match="not signed by alice, chuck"):
        check_signed(AGREED, signatures=[bob, bob, bob])


def test_a_signature_for_tls_or_anything_else_is_none() -> None:
    key = key_of("bob")
    bob = signatures(AGREED, "bob")[0]
    for message in (AGREED.digest, b"", b"cloister charter signature 2\0" + AGREED.digest):
        made = replace(bob, signature=key.sign(message))  # type: ignore[union-attr, call-arg]
        with pytest.raises(CharterError, match="not valid"):
            check_signed(AGREED, signatures=[made])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("floor = 2\n", "floor = 3\nfloor = 2\n"),
        ("[limits]\n", "[limits]\nfloor = 3\n[limits]\n"),
        ("floor = 2\n", "floor = 2\nFloor = 3\n"),
        ("floor = 2\n", 'floor = 2\n"floor " = 3\n'),
        ("floor = 2\n", 'floor = 2\n"fl\u043eor" = 3\n'),
        ("[limits]\n", "[Limits]\n"),
        ("serial = 1\n", "serial = 1\nlimits.floor = 3\n"),
        ('name = "bob"', 'name = "bob\\u200b"'),
        ('name = "bob"', 'name = "bob\\u0000"'),
        ('name = "bob"', 'name = "\\u202ebob"'),
        ('name = "bob"', 'name = "Bob"\nname = "bob"'),
        ('name = "chuck"', 'name = "BOB"'),
        ('name = "chuck"', 'name = "bob "'),
        ('name = "chuck"', 'name = "\uff42ob"'),
        ('name = "chuck"', 'name = "bob/../bob"'),
    ],
)
def test_no_charter_reads_one_way_and_means_another(old: str, new: str) -> None:
    assert old in text()
    with pytest.raises(CharterError):
        parse_charter(text().replace(old, new, 1))


def test_a_signature_file_says_one_thing() -> None:
    written = encode(signatures(AGREED, "bob")[0])
    for trick in (written + written, written + f'key = "{fingerprint_of("alice")}"\n', written + "[key]\n"):
        with pytest.raises(CharterError):
            decode(trick)
