"""Genuine evidence with something changed in it: refused with an error of ours, or the very same claims. Nothing else.

The very same claims are right where nobody signed what was changed: the text around the certificates, the root's own
certificate, which is not looked at, and the second form of every ECDSA signature.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import NamedTuple

import pytest

from cloister.attest.claims import SgxClaims, TdxClaims
from cloister.attest.dcap.collateral import DcapCollateral
from cloister.attest.dcap.verify import authenticate
from cloister.errors import CollateralError, EvidenceError, NotGenuineError, UnacceptableError
from tests.attest.genuine import DcapVector, dcap, dcap_names, needs_vectors

pytestmark = needs_vectors

REFUSALS = (EvidenceError, NotGenuineError, CollateralError, UnacceptableError)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
FIELDS = [field.name for field in fields(DcapCollateral)]
UNREAD = "pck_crl_issuer_chain"
"""The one field that nothing depends on: the CA's certificate comes with the quote."""


class Sample(NamedTuple):
    """A vector with what is right to say of it."""

    vector: DcapVector
    collateral: DcapCollateral
    right: SgxClaims | TdxClaims | str


@cache
def sample(name: str) -> Sample:
    vector = dcap(name)
    collateral = DcapCollateral.parse(vector.collateral_json)
    return Sample(vector, collateral, outcome(vector, vector.quote, collateral))


def outcome(vector: DcapVector, quote: bytes, collateral: DcapCollateral) -> SgxClaims | TdxClaims | str:
    """Claims, or the name of the refusal; any other exception fails the test."""
    try:
        return authenticate(quote, collateral=collateral, now=vector.now)
    except REFUSALS as fault:
        return type(fault).__name__


def check(one: Sample, *, quote: bytes | None = None, collateral: DcapCollateral | None = None) -> str:
    """How a mutant ended: "same", or the name of the refusal."""
    found = outcome(one.vector, one.vector.quote if quote is None else quote, collateral or one.collateral)
    if isinstance(found, str):
        return found
    assert found == one.right
    return "same"


def flipped(data: bytes, at: int) -> bytes:
    """One bit of one byte changed; which one depends on the place."""
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def flip_field(collateral: DcapCollateral, name: str, at: int) -> DcapCollateral:
    value = getattr(collateral, name)
    if isinstance(value, bytes):
        return replace(collateral, **{name: flipped(value, at)})
    # All texts are ASCII, and stay texts: the highest bit gives another letter.
    return replace(collateral, **{name: flipped(value.encode(), at).decode("latin-1")})


def signed_end(quote: bytes) -> int:
    """Where header and body end, and what the attestation key signed: by version and body type."""
    if quote[0] == 3:
        return 48 + 384
    return 48 + 584 if quote[0] == 4 else 54 + int.from_bytes(quote[50:54], "little")


@pytest.mark.slow
@pytest.mark.parametrize("name", dcap_names())
def test_a_sample_of_single_flips_in_the_quote(name):
    one, step = sample(name), 61
    ends = Counter(
        check(one, quote=flipped(one.vector.quote, at)) for at in range(step // 2, len(one.vector.quote), step)
    )
    assert ends["NotGenuineError"] > ends.total() / 2
    signed = range(0, signed_end(one.vector.quote), step)
    assert "same" not in {check(one, quote=flipped(one.vector.quote, at)) for at in signed}


@pytest.mark.slow
@pytest.mark.parametrize("name", dcap_names())
def test_a_sample_of_single_flips_in_the_collateral(name):
    one = sample(name)
    for field in FIELDS:
        size = len(getattr(one.collateral, field))
        ends = Counter(
            check(one, collateral=flip_field(one.collateral, field, at))
            for at in range(7 % size, size, max(1, size // 5))
        )
        if field.endswith("chain"):
            assert ends.keys() <= {"CollateralError", "same" if not isinstance(one.right, str) else one.right}
        else:
            assert ends.keys() <= {"CollateralError", "NotGenuineError"}, field


@cache
def seen_before(name: str) -> frozenset[str]:
    """What the vectors before this one hold: certificates above the PCK's, and fields of collateral."""
    before = dcap_names()[: dcap_names().index(name)]
    fields_before = {str(getattr(sample(other).collateral, field)) for other in before for field in FIELDS}
    return frozenset(fields_before | {authorities(sample(other).vector.quote)[1] for other in before})


def authorities(quote: bytes) -> tuple[int, str]:
    """Where the certificates of the PCK's CA and of the root begin, and what they are: the same in many quotes."""
    start = quote.index(b"-----BEGIN", quote.index(b"-----BEGIN") + 1)
    return start, quote[start:].decode()


@pytest.mark.slow
@pytest.mark.parametrize("name", dcap_names())
def test_every_single_flip_in_the_quote(name):
    one = sample(name)
    signed, (start, text) = signed_end(one.vector.quote), authorities(one.vector.quote)
    for at in range(start if text in seen_before(name) else len(one.vector.quote)):
        assert check(one, quote=flipped(one.vector.quote, at)) != "same" or at >= signed


@pytest.mark.slow
@pytest.mark.parametrize("name", dcap_names())
def test_every_single_flip_in_the_collateral(name):
    one = sample(name)
    for field in FIELDS:
        value = "" if field == UNREAD else getattr(one.collateral, field)
        for at in range(0 if str(value) in seen_before(name) else len(value)):
            end = check(one, collateral=flip_field(one.collateral, field, at))
            assert end != "same" or field.endswith("chain"), (field, at)


def test_the_field_that_nothing_depends_on():
    for name in dcap_names():
        one = sample(name)
        assert outcome(one.vector, one.vector.quote, replace(one.collateral, **{UNREAD: "x"})) == one.right


def second_form(signature: bytes) -> bytes:
    """The other s that verifies as well: n - s."""
    return signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)


def regions(quote: bytes) -> dict[str, slice]:
    """Where the parts of a quote lie, to the end of the QE's authentication data; the rest is the chain."""
    end = signed_end(quote)
    qe = end + 4 + 128 + (6 if quote[0] > 3 else 0)
    edges = {"header": (0, 48), "body": (48, end), "signature": (end + 4, end + 68), "key": (end + 68, end + 132)}
    edges |= {"QE report": (qe, qe + 384), "QE signature": (qe + 384, qe + 448), "rest": (qe + 448, len(quote))}
    return {part: slice(*edge) for part, edge in edges.items()}


@pytest.mark.parametrize("name", dcap_names())
def test_every_signature_has_a_second_form_that_says_the_same(name):
    one = sample(name)
    for part in ("signature", "QE signature"):
        at = regions(one.vector.quote)[part]
        quote = one.vector.quote[: at.start] + second_form(one.vector.quote[at]) + one.vector.quote[at.stop :]
        assert quote != one.vector.quote
        assert outcome(one.vector, quote, one.collateral) == one.right
    for field in ("tcb_info_signature", "qe_identity_signature"):
        changed = replace(one.collateral, **{field: second_form(getattr(one.collateral, field))})
        assert outcome(one.vector, one.vector.quote, changed) == one.right


# Mutants: each function makes one of a sample, with the help of another sample.

Mutant = tuple[bytes, DcapCollateral]


def truncate(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    return one.vector.quote[: rng.randrange(len(one.vector.quote))], one.collateral


def extend(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    return one.vector.quote + rng.randbytes(rng.choice((1, 4, 64, 4096))), one.collateral


def flip(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    quote = bytearray(one.vector.quote)
    for _time in range(rng.randint(1, 8)):
        quote[rng.randrange(len(quote))] ^= 1 << rng.randrange(8)
    return bytes(quote), one.collateral


def overwrite(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    at, count = rng.randrange(len(one.vector.quote)), rng.choice((1, 2, 4, 32, 64))
    filling = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    return (one.vector.quote[:at] + filling + one.vector.quote[at + count :]), one.collateral


def cut(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    at, count = rng.randrange(len(one.vector.quote)), rng.randint(1, 64)
    return one.vector.quote[:at] + one.vector.quote[at + count :], one.collateral


def repeat(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    at, count = rng.randrange(len(one.vector.quote)), rng.randint(1, 64)
    return one.vector.quote[: at + count] + one.vector.quote[at:], one.collateral


def exchange(rng: random.Random, one: Sample, other: Sample) -> Mutant:
    """A part of another genuine quote in the place of one's own."""
    part = rng.choice(list(regions(one.vector.quote)))
    own, its = regions(one.vector.quote)[part], regions(other.vector.quote)[part]
    return one.vector.quote[: own.start] + other.vector.quote[its] + one.vector.quote[own.stop :], one.collateral


def splice(rng: random.Random, one: Sample, other: Sample) -> Mutant:
    """One quote to some place, another one from there on."""
    at = rng.randrange(1, min(len(one.vector.quote), len(other.vector.quote)))
    return one.vector.quote[:at] + other.vector.quote[at:], one.collateral


def swap_collateral(_: random.Random, one: Sample, other: Sample) -> Mutant:
    return one.vector.quote, other.collateral


def swap_field(rng: random.Random, one: Sample, other: Sample) -> Mutant:
    names = rng.sample(FIELDS, k=rng.randint(1, 3))
    return one.vector.quote, replace(one.collateral, **{name: getattr(other.collateral, name) for name in names})


def spoil_field(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    name = rng.choice(FIELDS)
    value = getattr(one.collateral, name)
    at, count = rng.randrange(len(value)), rng.randint(1, 64)
    changed = rng.choice((value[:at], value[:at] + value[at + count :], value[: at + count] + value[at:]))
    return one.vector.quote, replace(one.collateral, **{name: changed})


def resign(rng: random.Random, one: Sample, _: Sample) -> Mutant:
    """Second forms of signatures, and one that is none."""
    at = regions(one.vector.quote)[rng.choice(("signature", "QE signature"))]
    signature = rng.choice((second_form(one.vector.quote[at]), bytes(64), b"\xff" * 64, rng.randbytes(64)))
    return one.vector.quote[: at.start] + signature + one.vector.quote[at.stop :], one.collateral


MUTATIONS: tuple[Callable[[random.Random, Sample, Sample], Mutant], ...] = (
    truncate,
    extend,
    flip,
    overwrite,
    cut,
    repeat,
    exchange,
    splice,
    swap_collateral,
    swap_field,
    spoil_field,
    resign,
)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed else []) for seed in range(10)])
def test_ten_thousand_mutants(seed):
    rng, ends = random.Random(seed), Counter[tuple[str, str]]()
    for turn in range(1000):
        mutation = MUTATIONS[turn % len(MUTATIONS)]
        one, other = (sample(name) for name in rng.sample(dcap_names(), k=2))
        quote, collateral = mutation(rng, one, other)
        ends[mutation.__name__, check(one, quote=quote, collateral=collateral)] += 1
    assert ends["truncate", "same"] == ends["extend", "same"] == 0
    assert ends["resign", "same"] > 0
    assert {end for _, end in ends} >= {error.__name__ for error in REFUSALS}
