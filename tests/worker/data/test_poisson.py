"""Which records are drawn: each with its probability, by itself, and from the key alone."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import ConfigurationError
from cloister.worker.data.poisson import KEY_BYTES, draw, fetched

KEY = bytes(range(KEY_BYTES))
ALL = 1 << 40


def number(row: int, key: bytes) -> int:
    """A row's number, as it is described."""
    block, place = divmod(row, 1 << 17)
    stream = hashlib.shake_256(b"cloister draw 1\0" + key + block.to_bytes(8, "big")).digest(8 * place + 8)
    return int.from_bytes(stream[-8:], "little")


def drawn(rows: int, rate: float, key: bytes, most: int = ALL) -> list[int]:
    found = draw(rows, rate=rate, key=key, most=most)
    return found.rows[found.drawn].tolist()  # type: ignore[no-any-return]


def keys(count: int) -> list[bytes]:
    return [hashlib.sha256(str(at).encode()).digest() for at in range(count)]


@pytest.mark.parametrize("rate", [1.0, math.nextafter(1.0, 0.0), 0.5, 1 / 3, 0.01, 2.0**-64, 1e-300, 5e-324])
def test_a_row_is_drawn_below_the_threshold_which_is_exact(rate: float) -> None:
    below = math.floor(Fraction(rate) * 2**64)
    assert drawn(300, rate, KEY) == [row for row in range(300) if number(row, KEY) < below]


def test_a_rate_next_to_a_rows_number_decides_rightly() -> None:
    """The nearest floats on either side of a number / 2^64: one draws the row, and the other does not."""
    for row in range(50):
        near = float(Fraction(number(row, KEY), 2**64))
        for rate in (near, math.nextafter(near, 0.0), math.nextafter(near, 1.0)):
            assert (row in drawn(50, rate, KEY)) is (number(row, KEY) < math.floor(Fraction(rate) * 2**64))


def test_a_rate_of_one_draws_all_and_one_that_is_too_small_none() -> None:
    assert drawn(1000, 1.0, KEY) == list(range(1000))
    assert drawn(1000, 2.0**-65, KEY) == []


def test_rows_beyond_a_hash_have_one_of_their_own() -> None:
    rows = (1 << 17) + 40
    found = set(drawn(rows, 0.25, KEY))
    for row in (0, 1, (1 << 17) - 1, 1 << 17, rows - 1, rows - 2, rows - 3):
        assert (row in found) is (number(row, KEY) < 2**62)


def test_more_rows_change_nothing_for_those_before() -> None:
    assert [row for row in drawn(5000, 0.1, KEY) if row < 70] == drawn(70, 0.1, KEY)


def test_other_keys_draw_other_rows() -> None:
    assert len({tuple(drawn(60, 0.5, key)) for key in keys(200)}) == 200


def test_counts_of_rows_are_those_of_independent_draws() -> None:
    """4,000 draws from 40 rows. Of 39 or 40 degrees of freedom, chi-square is over 90 with a probability of 1e-5."""
    rows, rate, draws = 40, 0.3, 4000
    taken = np.zeros((draws, rows))
    for at, key in enumerate(keys(draws)):
        taken[at, drawn(rows, rate, key)] = 1
    variance = rate * (1 - rate)
    assert ((taken.sum(0) - draws * rate) ** 2 / (draws * variance)).sum() < 90
    pmf = np.array([math.comb(rows, k) * rate**k * (1 - rate) ** (rows - k) for k in range(rows + 1)])
    often = np.flatnonzero(draws * pmf >= 5)
    seen = np.bincount(taken.sum(1).astype(int), minlength=rows + 1)
    assert ((seen - draws * pmf) ** 2 / (draws * pmf))[often].sum() < 60  # about 20 degrees of freedom
    # No two rows go together: 780 correlations, each within five standard deviations.
    together = np.corrcoef(taken.T) - np.eye(rows)
    assert abs(together).max() < 5 / math.sqrt(draws)


@given(st.integers(1, 400), st.floats(0.001, 1.0), st.integers(1, 500), st.binary(min_size=32, max_size=32))
def test_the_rows_that_are_fetched_have_the_smallest_numbers(rows: int, rate: float, most: int, key: bytes) -> None:
    found = draw(rows, rate=rate, key=key, most=most)
    assert len(found.rows) == len(found.drawn) == fetched(rows, rate=rate, most=most)
    assert found.rows.tolist() == sorted(sorted(range(rows), key=lambda row: number(row, key))[: len(found.rows)])


def test_how_many_are_fetched_says_nothing_of_how_many_are_drawn() -> None:
    counts = {
        (len(found.rows), int(found.drawn.sum()))
        for found in (draw(400, rate=0.1, key=key, most=ALL) for key in keys(100))
    }
    assert {rows for rows, _ in counts} == {fetched(400, rate=0.1, most=ALL)} == {99}
    assert len({count for _, count in counts}) > 10


def test_what_is_too_much_is_left_out_by_its_numbers() -> None:
    found = draw(100, rate=0.9, key=KEY, most=20)
    assert found.drawn.all()
    assert found.rows.tolist() == sorted(sorted(range(100), key=lambda row: number(row, KEY))[:20])


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.3, 0.7])
@pytest.mark.parametrize("rows", [30, 1000, 20_000])
def test_more_than_are_fetched_are_hardly_ever_drawn(rows: int, rate: float) -> None:
    """The binomial distribution's tail, added up."""
    first = fetched(rows, rate=rate, most=ALL) + 1
    logs = (
        math.lgamma(rows + 1)
        - math.lgamma(k + 1)
        - math.lgamma(rows - k + 1)
        + k * math.log(rate)
        + (rows - k) * math.log1p(-rate)
        for k in range(first, rows + 1)
    )
    assert math.fsum(map(math.exp, logs)) < 1e-14


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 0.0}, "a probability above 0 and at most 1"),
        ({"rate": -0.1}, "a probability above 0"),
        ({"rate": 1.0001}, "at most 1"),
        ({"rate": math.nan}, "the rate of a draw is nan"),
        ({"key": b""}, "has 0 bytes; it has 32"),
        ({"key": bytes(33)}, "has 33 bytes"),
        ({"rows": 0}, "at least one row"),
        ({"most": 0}, "fetches at least one"),
    ],
)
def test_what_is_refused(options: dict[str, object], text: str) -> None:
    given_ = {"rows": 10, "rate": 0.5, "key": KEY, "most": 10, **options}
    with pytest.raises(ConfigurationError, match=text):
        draw(given_.pop("rows"), **given_)  # type: ignore[arg-type]
