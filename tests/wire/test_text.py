"""Text from others: what steers a terminal, begins a line or cannot be seen is spelled out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.wire.text import exact, is_visible, quoted, visible

UNSEEN = "\u00ad\u034f\u115f\u1160\u180e\u200b\u202e\u2060\u2066\u2800\u3164\ufe0f\ufeff\uffa0\U000e0100\U000e0041"
STEERING = "\x1b\n\r\t\x00\x7f\x9b\x85\u2028\u2029\xa0\ud800"


@pytest.mark.parametrize("character", UNSEEN + STEERING, ids=ascii)
def test_what_cannot_be_seen_is_spelled_out(character: str) -> None:
    assert not is_visible(f"a{character}b")
    assert visible(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("text", ["", "a b", "H\u00f4pital", "\u5317", "\u0928\u093f", "a\\b"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert is_visible(text)
    assert visible(text) == text


@given(st.text())
def test_any_text_becomes_one_line_that_is_seen(text: str) -> None:
    assert is_visible(visible(text))
    assert quoted(text).isascii()
    assert quoted(text).isprintable()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("0.weight", "0.weight"),
        ("a_b-c.1", "a_b-c.1"),
        ("", "''"),
        ("a b", "'a b'"),
        ("w float32[2], parameter", "'w float32[2], parameter'"),
        ("x\x1b[8m\nwarnings    none", "'x\\x1b[8m\\nwarnings    none'"),
        ("\u043e", "'\\u043e'"),
    ],
)
def test_a_name_of_any_characters_looks_like_nothing_else(name: str, told: str) -> None:
    assert quoted(name) == told


@given(st.text(), st.text())
def test_two_names_never_look_alike(one: str, other: str) -> None:
    assert (quoted(one) == quoted(other)) == (one == other)


def test_two_numbers_never_look_alike() -> None:
    assert [exact(number) for number in (10.0, 10.00004, 0.5000001, 1e-6)] == ["10", "10.00004", "0.5000001", "1e-06"]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_numbers_are_told_exactly(one: float, other: float) -> None:
    assert (exact(one) == exact(other)) == (repr(one) == repr(other))
