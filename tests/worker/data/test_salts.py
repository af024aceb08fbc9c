"""What a data set's secret decides: other seeds and keys for whatever is another draw, and never one for the other."""

from __future__ import annotations

import hashlib
import hmac
from itertools import product

from cloister.worker.data.poisson import KEY_BYTES
from cloister.worker.data.salts import SALT_BYTES, draw_key, seeds_of, simulated_salt

SALTS = [bytes([at]) * SALT_BYTES for at in range(3)]
JOBS = [hashlib.sha256(bytes([at])).digest() for at in range(3)]
NUMBERS = (1, 2, 256, 1 << 40)


def test_every_salt_job_and_round_has_a_key_of_its_own() -> None:
    keys = {draw_key(salt, job=job, number=number) for salt, job, number in product(SALTS, JOBS, NUMBERS)}
    assert len(keys) == len(SALTS) * len(JOBS) * len(NUMBERS)
    assert {len(key) for key in keys} == {KEY_BYTES}
    assert draw_key(SALTS[0], job=JOBS[0], number=1) in keys


def test_a_key_is_what_is_written_of_it() -> None:
    message = b"cloister drawn rows 1\0" + JOBS[1] + (7).to_bytes(8, "big")
    assert draw_key(SALTS[1], job=JOBS[1], number=7) == hmac.new(SALTS[1], message, "sha256").digest()


def test_a_key_says_nothing_of_a_seed() -> None:
    """Both are of the same salt, job and number, under other labels."""
    for number in NUMBERS:
        key = draw_key(SALTS[0], job=JOBS[0], number=number)
        seeds = seeds_of(SALTS[0], job=JOBS[0], number=number)
        assert not {each.to_bytes(8, "big") for each in seeds} & {key[at : at + 8] for at in range(0, KEY_BYTES, 8)}


def test_rows_are_chosen_once_for_all_jobs_and_ordered_anew_for_each_release() -> None:
    found = {seeds_of(SALTS[0], job=job, number=number) for job, number in product(JOBS, NUMBERS)}
    assert len({each.rows for each in found}) == 1
    assert len({each.steps for each in found}) == len(JOBS) * len(NUMBERS)
    assert len({seeds_of(salt, job=JOBS[0], number=1) for salt in SALTS}) == len(SALTS)


def test_owners_of_a_simulation_have_salts_of_their_own() -> None:
    salts = {simulated_salt(seed, owner) for seed, owner in product((0, 1, 11), ("alice", "bob", "1 bob"))}
    assert len(salts) == 9
    assert {len(salt) for salt in salts} == {SALT_BYTES}
