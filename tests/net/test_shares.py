"""Places of which each who comes has some that no other can take."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cloister.net.shares import Shares


def fill(shares: Shares, who: str) -> int:
    """How many ``who`` can get."""
    got = 0
    while shares.take(who):
        got += 1
    return got


@given(st.integers(1, 4), st.integers(0, 9), st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), max_size=99))
def test_whatever_others_take(own: int, common: int, steps: list[tuple[bool, str]]) -> None:
    """Who has none gets all that are its own; and there are no more than there are."""
    shares, held = Shares(own=own, common=common), Counter[str]()
    for takes, who in steps:
        if takes:
            got = shares.take(who)
            assert got or held[who] >= own
            held[who] += got
        elif held[who]:
            shares.give(who)
            held[who] -= 1
        assert sum(max(0, each - own) for each in held.values()) <= common
        assert shares._held == +held  # and nothing is remembered of those who have gone
    assert all(shares.take("new") for _ in range(own))


def test_one_alone() -> None:
    assert fill(Shares(own=2, common=5), "a") == 7


def test_a_common_place_that_is_given_back_is_anybodys() -> None:
    shares = Shares(own=1, common=1)
    assert [fill(shares, who) for who in "ab"] == [2, 1]
    shares.give("a")
    assert [fill(shares, who) for who in "ba"] == [1, 0]


def test_those_who_can_have_any_name() -> None:
    shares = Shares(own=2, most=5)
    assert [fill(shares, who) for who in "abcd"] == [2, 2, 1, 0]
