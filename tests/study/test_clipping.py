"""When a researcher is told that updates are clipped, and that it is told once."""

from __future__ import annotations

import pytest

from cloister.study.clipping import ClippingWatch, clipping_of
from cloister.study.history import History, Round


def rounds(*shares: float | None) -> list[Round]:
    """Rounds of three owners, this share of whose updates were clipped; None: nothing is known of it."""
    told = [{} if each is None else clipping_of([each] * 3, [1.0, 4.0, 7.0]) for each in shares]
    return [Round(at, ("a", "b", "c"), 9, {"loss": 1.0}, {}, 0.1, clipping=each) for at, each in enumerate(told, 1)]


@pytest.mark.parametrize(
    ("shares", "warned"),
    [
        ((1.0, 1.0), False),
        ((1.0, 1.0, 1.0), True),
        ((0.6, 0.6, 0.0), True),
        ((0.5, 0.5, 0.5), False),
        ((1.0, 1.0, 0.0, 0.0), False),
        ((1.0, 1.0, None, None), False),
        ((0.0, 0.0, 0.0, 1.0, 1.0), False),
    ],
)
def test_it_warns_where_most_rounds_clip_most_updates(
    shares: tuple[float | None, ...], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ClippingWatch(1.0, remedy="take a larger one").look(rounds(*shares))
    assert bool(caplog.records) == warned


def test_it_warns_once_with_the_norm_the_clip_and_a_way_out(caplog: pytest.LogCaptureFixture) -> None:
    watch = ClippingWatch(0.25, remedy="take a larger one")
    for count in range(1, 6):
        watch.look(rounds(*[1.0] * count))
    assert [each.getMessage() for each in caplog.records] == [
        "more than half of the updates, whose median norm was 4 in the last round, were clipped to 0.25 in 3 of 3"
        " rounds: the model may learn next to nothing; take a larger one"
    ]


def test_without_a_clip_nothing_is_clipped(caplog: pytest.LogCaptureFixture) -> None:
    ClippingWatch(None, remedy="").look(rounds(1.0, 1.0, 1.0))
    assert not caplog.records


def test_a_history_has_the_numbers_round_by_round() -> None:
    history = History(rounds(0.5, None))
    assert history.series("clipped") == [0.5, None]
    assert history.series("update_norm") == [4.0, None]
    assert history.series("largest_update_norm") == [7.0, None]
    assert history.names == ("loss",)  # a plot and a table of all metrics are of the plan's own
    assert "50% clipped" in str(history[0])
    assert "clipped" not in str(history[1])
    assert "50%" in str(history)
    assert "clipped" not in str(History(rounds(0.0)))
