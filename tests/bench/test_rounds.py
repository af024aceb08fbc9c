"""The benchmark of rounds still fits the code: its patches of private names are seen by no type checker."""

from __future__ import annotations

import pytest

from bench.rounds import Size, _protected


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("without", ["-", "all", "model's return", "names of models", "copies of models"])
def test_a_round_without_a_protection_is_measured(without: str) -> None:
    turn = _protected(Size(owners=2, nbytes=4000, rounds=2, turns=1, aim=""), without=without)
    assert turn.seconds > 0
