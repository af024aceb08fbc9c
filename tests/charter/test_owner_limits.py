"""An owner's own floors: stricter ones stand, a laxer one is refused by its name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cloister.charter.owner_limits import Floors, check_floors, reference_under
from cloister.errors import CharterError
from tests.support.charters import SGX, charter

DAY = timedelta(days=1)
AGREED = charter(interactive="false", software=SGX)
SAME: dict[str, Any] = {
    "floor": 2,
    "largest_share": 0.5,
    "clip": 1.0,
    "rounds": 100,
    "min_examples": 10,
    "max_collateral_age": 30 * DAY,
}
STRICTER: dict[str, Any] = {
    "floor": 3,
    "largest_share": 0.4,
    "clip": 0.5,
    "rounds": 0,
    "min_examples": 11,
    "max_collateral_age": DAY,
}
LAXER: dict[str, Any] = {
    "floor": 1,
    "largest_share": 0.6,
    "clip": 1.5,
    "rounds": 101,
    "min_examples": 9,
    "max_collateral_age": 31 * DAY,
}


def test_none_the_same_and_stricter_ones_stand() -> None:
    check_floors(AGREED, floors=Floors())
    check_floors(AGREED, floors=Floors(**SAME))
    check_floors(AGREED, floors=Floors(**STRICTER))


@pytest.mark.parametrize("name", LAXER)
def test_a_laxer_one_is_named(name: str) -> None:
    with pytest.raises(CharterError, match=f"{name} = .* is laxer than the charter's"):
        check_floors(AGREED, floors=Floors(**{name: LAXER[name]}))


def test_all_laxer_ones_are_named() -> None:
    with pytest.raises(CharterError) as caught:
        check_floors(AGREED, floors=Floors(**LAXER))
    assert all(f"{name} = " in str(caught.value) for name in LAXER)


@pytest.mark.parametrize("floors", [Floors(floor=4), Floors(largest_share=0.3)])
def test_what_can_never_be_met(floors: Floors) -> None:
    with pytest.raises(CharterError, match="never met"):
        check_floors(AGREED, floors=floors)


def test_what_a_node_cannot_keep_is_refused() -> None:
    interactive = charter(software=SGX)
    same = {name: value for name, value in SAME.items() if name != "max_collateral_age"}
    check_floors(interactive, floors=Floors(**same, max_collateral_age=DAY))
    with pytest.raises(CharterError, match="floor and clip cannot be kept under a charter that is interactive"):
        check_floors(interactive, floors=Floors(floor=3, clip=0.5))


@pytest.mark.parametrize("unit", ["record", "owner"])
def test_all_records_are_clipped_alike(unit: str) -> None:
    """Their sum is on one grid, whose unit is a part of the clip: an owner with a shorter one would count for more."""
    noisy = charter(interactive="false", noise=f'{{ unit = "{unit}", multiplier = 2, delta = 1e-5 }}')
    check_floors(noisy, floors=Floors(clip=1.0, floor=3))
    if unit == "owner":
        check_floors(noisy, floors=Floors(clip=0.5))
        return
    with pytest.raises(CharterError, match="clip cannot be kept under a charter whose noise hides records"):
        check_floors(noisy, floors=Floors(clip=0.5))


def test_the_lower_age_of_collateral_counts() -> None:
    assert reference_under(AGREED, floors=None) == reference_under(AGREED, floors=Floors()) == AGREED.reference
    (entry,) = reference_under(AGREED, floors=Floors(max_collateral_age=DAY))
    assert entry.tee == "sgx"
    assert entry.tcb.max_collateral_age == DAY


def test_any_age_is_stricter_than_none() -> None:
    rehearsal = charter()
    check_floors(rehearsal, floors=Floors(max_collateral_age=3000 * DAY))
    assert reference_under(rehearsal, floors=Floors(max_collateral_age=DAY)) == rehearsal.reference
