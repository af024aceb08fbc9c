"""What a charter's noise is worth, on a page: the numbers are the accountant's, and each says what it is of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cloister.accounting.accountant import Spent, epsilon
from cloister.charter.charter import Charter
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.charter.toml import parse_charter
from cloister.study.privacy import privacy, rounded_up
from tests.charter.test_noise import OWNER, PLAN, RECORD, drawn, noisy
from tests.support.charters import agreed_job, charter

DELTA = 1e-5


def agreed(*jobs: AgreedJob, **changed: str) -> Charter:
    return parse_charter(noisy(*jobs, **changed))


def numbers(found: list[str], heading: str) -> list[tuple[str, ...]]:
    """The rounds and the epsilons under a heading."""
    at = found.index(f"  {heading}")
    rounds, epsilons = found[at + 1].split(), found[at + 2].split()
    assert (rounds[:2], epsilons[:1]) == (["after", "rounds"], ["epsilon"])
    return [*zip(rounds[2:], epsilons[1:], strict=True)]


def cost(*spent: tuple[float, int]) -> str:
    return rounded_up(epsilon([Spent(2.0, *each) for each in spent], delta=DELTA))


def test_a_charter_without_noise_has_nothing_to_tell() -> None:
    assert not [*privacy(charter())]


def test_each_job_by_rounds() -> None:
    found = [*privacy(agreed(drawn(rounds=20)))]
    assert numbers(found, "job train") == [(str(count), cost((0.25, count))) for count in (1, 2, 5, 10, 15, 20)]
    assert not [line for line in found if "all jobs" in line], "the job is the whole charter"
    owners = [*privacy(agreed(agreed_job(PLAN, rounds=1), noise=OWNER))]
    assert numbers(owners, "job train") == [("1", cost((1.0, 1)))]


def test_jobs_that_cost_the_same_are_told_once() -> None:
    found = [*privacy(agreed(drawn(), drawn(name="other"), drawn(name="longer", rounds=4)))]
    headings = ["  job longer", "  each of the jobs other, train", "  all jobs on #mri"]
    assert [line for line in found if "job" in line] == headings


def test_all_jobs_on_one_tag_and_the_charters_rounds() -> None:
    """Of more rounds than the charter has in all, those count that tell the most."""
    wide = drawn(name="wide", rounds=6, sampling=Sampling(rate=0.5, rows=90))
    found = [*privacy(agreed(drawn(rounds=10), wide, drawn(name="on others", data="#ct", rounds=2), rounds="12"))]
    together = numbers(found, "all jobs on #mri")
    assert together[-1] == ("12", cost((0.5, 6), (0.25, 6)))
    assert together[0] == ("1", cost((0.5, 1)))
    assert numbers(found, "all jobs, for a data set with all their tags")[-1] == ("12", cost((0.5, 6), (0.25, 6)))
    fewer = [*privacy(agreed(drawn(rounds=2), drawn(name="other", rounds=3)))]
    assert numbers(fewer, "all jobs on #mri")[-1] == ("5", cost((0.25, 5)))


def test_in_words_what_is_hidden_and_whose_delta_it_is() -> None:
    records = " ".join(" ".join(privacy(agreed(min_examples="400"))).split())
    assert "epsilon at delta 1e-05 bounds what all rounds together tell of one record" in records
    assert "one record a row of an owner's data set" in records
    assert "smallest owner may have 400 rows: its epsilon is the same" in records
    assert "delta times its rows is 0.004" in records
    owners = " ".join(" ".join(privacy(agreed(agreed_job(PLAN), noise=OWNER))).split())
    assert "tell of one owner" in owners
    assert "with nothing in its place" in owners
    assert "delta times the 3 owners is 3e-05" in owners


def test_what_a_guess_is_worth() -> None:
    """No more than chance with as much noise as there may be, and everything with next to none."""
    for multiplier, right in (("1000", "50.1"), ("0.02", "100")):
        found = " ".join(" ".join(privacy(agreed(noise=RECORD.replace("2.0", multiplier)))).split())
        assert f"is right at most {right} times of 100" in found


def test_what_the_reference_of_the_charter_shows() -> None:
    job = drawn(rounds=200, sampling=Sampling(rate=0.1, rows=300))
    shown = "\n".join(privacy(agreed(job, rounds="200", min_examples="100")))
    assert shown in (Path(__file__).parents[2] / "docs" / "charter.md").read_text()


def test_every_line_fits_a_page() -> None:
    names = [f"a job with quite a long name {at:>30}".replace("  ", " -") for at in range(3)]
    found = [*privacy(agreed(*(drawn(name=name, rounds=100) for name in names), noise=RECORD.replace("2.0", "0.02")))]
    assert max(map(len, found)) <= 100
    assert any("over 10,000" in line for line in found)


def test_where_the_accountant_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    found = [*privacy(agreed(noise=RECORD.replace("2.0", "2.345")))]  # of which nothing was computed before
    assert "pip install 'cloister[noise]'" in found[1]
    assert "  one record" in found[2]
    assert not [line for line in found if "after rounds" in line or "guess" in line]


def test_more_rounds_than_are_counted() -> None:
    found = [*privacy(agreed(drawn(rounds=1 << 21), rounds=str(1 << 21)))]
    assert "2097152 rounds cannot be counted" in found[1]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (1.0, "1"), (0.83012, "0.8302"), (2.7951, "2.796"), (12345.6, "12350"), (float("inf"), "over 10,000")],
)
def test_an_epsilon_is_rounded_up(number: float, text: str) -> None:
    assert rounded_up(number) == text
