"""Genuine evidence, changed a little: refused with a type, or it says the very same. Never anything else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import pytest

from cloister.attest.claims import SnpClaims
from cloister.attest.snp import verify
from cloister.errors import CollateralError, EvidenceError, NotGenuineError
from tests.attest.genuine import needs_vectors, snp_names
from tests.attest.genuine import snp as vector
from tests.vectors.attest.make_snp import P384_ORDER

pytestmark = needs_vectors

FIELDS = [  # offset and size of each field of a report
    *((0x00, 4), (0x04, 4), (0x08, 8), (0x10, 16), (0x20, 16), (0x30, 4), (0x34, 4), (0x38, 8), (0x40, 8), (0x48, 4)),
    *((0x50, 64), (0x90, 48), (0xC0, 32), (0xE0, 48), (0x110, 48), (0x140, 32), (0x160, 32), (0x180, 8), (0x188, 3)),
    *((0x1A0, 64), (0x1E0, 8), (0x1E8, 4), (0x1EC, 4), (0x1F0, 8), (0x1F8, 8), (0x200, 8), (0x2A0, 72), (0x2E8, 72)),
]


@dataclass(frozen=True)
class Case:
    """A report and its chain (VEK, ASK, ARK), at its time."""

    report: bytes
    chain: tuple[bytes, ...]
    now: datetime

    def judge(self) -> SnpClaims | type[Exception]:
        """What it claims, or how it is refused; any other exception goes through."""
        try:
            return verify.authenticate(self.report, endorsements=self.chain, collateral=None, now=self.now)
        except (EvidenceError, NotGenuineError, CollateralError) as refusal:
            return type(refusal)


def case(name: str) -> Case:
    found = vector(name)
    return Case(found.report, (found.vek, found.ask, found.ark), found.now)


CASES = [case(name) for name in snp_names()]


def flip(data: bytes, at: int, bits: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def flipped_chain(original: Case, link: int, at: int, bits: int) -> Case:
    chain = list(original.chain)
    chain[link] = flip(chain[link], at, bits)
    return replace(original, chain=tuple(chain))


def distinct_certificates() -> list[tuple[str, int]]:
    """One place for every certificate: some chains share theirs."""
    places = {case(name).chain[link]: (name, link) for name in snp_names() for link in range(3)}
    return sorted(places.values())


# --- One byte --------------------------------------------------------------------------------------------------------


def check_report_flips(name: str, step: int) -> None:
    original, rng = case(name), random.Random(name)
    for at in range(rng.randrange(step), len(original.report), step):
        refusal = replace(original, report=flip(original.report, at, rng.randrange(1, 256))).judge()
        assert refusal in (EvidenceError, NotGenuineError), f"byte {at:#x}"


def check_certificate_flips(name: str, link: int, step: int) -> None:
    original, rng = case(name), random.Random(f"{name} {link}")
    for at in range(rng.randrange(step), len(original.chain[link]), step):
        refusal = flipped_chain(original, link, at, rng.randrange(1, 256)).judge()
        assert refusal in (EvidenceError, NotGenuineError, CollateralError), f"byte {at:#x}"


@pytest.mark.slow
@pytest.mark.parametrize("name", snp_names())
def test_some_changed_bytes_of_a_report_are_refused(name):
    check_report_flips(name, 41)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link"), distinct_certificates())
def test_some_changed_bytes_of_a_certificate_are_refused(name, link):
    check_certificate_flips(name, link, 61)


@pytest.mark.slow
@pytest.mark.parametrize("name", snp_names())
def test_every_changed_byte_of_a_report_is_refused(name):
    check_report_flips(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link"), distinct_certificates())
def test_every_changed_byte_of_a_certificate_is_refused(name, link):
    check_certificate_flips(name, link, 1)


# --- Anything --------------------------------------------------------------------------------------------------------


def cut(original: Case, rng: random.Random) -> Case:
    if rng.random() < 0.3:
        return replace(original, report=original.report[: rng.randrange(len(original.report))])
    chain = list(original.chain)
    link = rng.randrange(3)
    chain[link] = chain[link][: rng.randrange(len(chain[link]))]
    return replace(original, chain=tuple(chain))


def extend(original: Case, rng: random.Random) -> Case:
    tail = rng.randbytes(rng.randrange(1, 64)) if rng.random() < 0.5 else bytes(rng.randrange(1, 64))
    if rng.random() < 0.3:
        return replace(original, report=original.report + tail)
    chain = list(original.chain)
    chain[rng.randrange(3)] += tail
    return replace(original, chain=tuple(chain))


def negate(original: Case, rng: random.Random) -> Case:
    """s to n - s: as good a signature as the first."""
    head, s, tail = original.report[:0x2E8], original.report[0x2E8:0x330], original.report[0x330:]
    other = P384_ORDER - int.from_bytes(s, "little") + rng.choice((0, 0, 0, P384_ORDER))
    return replace(original, report=head + other.to_bytes(72, "little") + tail)


def shuffle(original: Case, rng: random.Random) -> Case:
    """Certificates in another order, some twice, some gone, some another chain's."""
    pool = (*original.chain, *original.chain, *rng.choice(CASES).chain)
    return replace(original, chain=tuple(rng.sample(pool, rng.randrange(2, 8))))


def swap(original: Case, rng: random.Random) -> Case:
    chain = list(original.chain)
    link = rng.randrange(3)
    chain[link] = rng.choice(CASES).chain[link]
    return replace(original, chain=tuple(chain), now=rng.choice(CASES).now)


def exchange(original: Case, rng: random.Random) -> Case:
    """Fields of another genuine report."""
    report, other = bytearray(original.report), rng.choice(CASES).report
    for at, size in rng.sample(FIELDS, rng.randrange(1, 4)):
        report[at : at + size] = other[at : at + size]
    return replace(original, report=bytes(report))


def scribble(original: Case, rng: random.Random) -> Case:
    data = bytearray(b"".join((original.report, *original.chain)))
    for _ in range(rng.randrange(1, 4)):
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 16))
        data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))[: len(data) - at]
    parts, start = [], 0
    for size in map(len, (original.report, *original.chain)):
        parts.append(bytes(data[start : start + size]))
        start += size
    return replace(original, report=parts[0], chain=tuple(parts[1:]))


MUTATIONS: list[Callable[[Case, random.Random], Case]] = [cut, extend, negate, shuffle, swap, exchange, scribble]


def check_mutants(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    claims = {original.report: original.judge() for original in CASES}
    outcomes: Counter[object] = Counter()
    for _ in range(rounds):
        original = rng.choice(CASES)
        for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 1, 2))):
            mutant = mutation(original, rng)
        verdict = mutant.judge()
        if isinstance(verdict, SnpClaims):
            assert verdict == claims[original.report]
        outcomes["the same" if isinstance(verdict, SnpClaims) else verdict] += 1
    # Each answer is given: mutants that only ever fail in one way would show little.
    assert all(outcomes[answer] > rounds // 100 for answer in ("the same", EvidenceError, NotGenuineError))
    assert outcomes[CollateralError]


@pytest.mark.slow
def test_a_few_mutants():
    check_mutants(400, seed=1)


@pytest.mark.slow
def test_ten_thousand_mutants():
    check_mutants(10_000, seed=2)
