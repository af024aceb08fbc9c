"""What a run's history draws, with the real matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

from cloister.errors import ConfigurationError, MissingDependencyError
from cloister.study.history import History, Round

HISTORY = History([Round(at, ("a",), 1, {"loss": 1 / at}, {"auc": 0.5} if at == 2 else {}, 0.1) for at in (1, 2)])


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def lines(axes: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


@pytest.mark.slow
def test_all_metrics_are_drawn_with_one_call(tmp_path: Path) -> None:
    axes = HISTORY.plot()
    assert lines(axes) == {"loss": [[1, 1.0], [2, 0.5]], "evaluated auc": [[2, 0.5]]}
    assert axes.get_xlabel() == "round"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "evaluated auc"]
    axes.figure.savefig(tmp_path / "rounds.png")
    assert pyplot.imread(tmp_path / "rounds.png")[..., :3].min() < 1  # something is on it


def test_some_are_drawn_beside_others() -> None:
    _, axes = pyplot.subplots()
    axes.plot([1, 2], [3, 4], label="mine")
    assert HISTORY.plot("loss", axes=axes) is axes
    assert set(lines(axes)) == {"mine", "loss"}


def test_a_metric_that_no_round_has() -> None:
    with pytest.raises(ConfigurationError, match="'nonsense'; there are: loss, evaluated auc"):
        HISTORY.plot("nonsense")
    assert not pyplot.get_fignums()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib.*pip install 'cloister\[plots\]'"):
        HISTORY.plot()


def test_who_was_absent_stands_in_the_lines_and_in_the_table() -> None:
    why = {"carol": "it declined: column 'y' holds text", "bob": "its connection was lost"}
    rounds = [
        Round(1, ("alice",), None, {"loss": 1.0}, {}, 0.1),
        Round(2, ("alice",), None, {"loss": 1.0}, {}, 0.1, absent=why),
    ]
    assert str(rounds[0]) == "round 1  1 owner  loss 1  0.1 s"
    assert str(rounds[1]) == "round 2  1 owner  loss 1  0.1 s  without bob, carol"
    shown = str(History(rounds))
    assert "absent" in shown
    assert "bob: its connection was lost; carol: it declined: column 'y' holds text" in shown
    assert "absent" not in str(History(rounds[:1]))
    assert rounds[1] == Round(2, ("alice",), None, {"loss": 1.0}, {}, 9.0)  # as the seconds, they are this run's alone


def test_a_reason_does_not_style_the_table() -> None:
    shown = str(History([Round(1, ("a",), None, {}, {}, 0.1, absent={"b": "[bold red]no[/] [/nothing]"})]))
    assert "[bold red]no[/] [/nothing]" in shown


def test_a_long_reason_is_folded_and_not_cut() -> None:
    shown = str(History([Round(1, ("a",), None, {}, {}, 0.1, absent={"b": "x" * 512})]))
    assert shown.count("x") == 512
