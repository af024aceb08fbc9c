"""What ``node check`` finds before the first round: jobs that the node would decline, and what is left of budgets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.accounting.accountant import Spent, epsilon
from cloister.charter import Charter
from cloister.charter.jobs import Sampling
from cloister.charter.owner_limits import Floors
from cloister.errors import ConfigurationError
from cloister.ledger.records import Noised
from cloister.node import config
from cloister.node.config import NodeConfiguration
from cloister.node.outlook import Outlook, outlook
from cloister.node.study.base_files import BaseFiles
from cloister.node.study.entries import Consented, Voided
from cloister.node.study.journal import Records
from cloister.wire.optimizers import SGD
from tests.support.charters import agreed_job, charter, fingerprint_of

BOB = fingerprint_of("bob")
PLAN = bytes(32)


def agreed(*jobs: dict[str, Any], **changed: str) -> Charter:
    return charter(
        jobs=[agreed_job(PLAN, **each) for each in jobs or ({},)],
        first_model=f'"{bytes(32).hex()}"',
        interactive="false",
        **changed,
    )


def configured(folder: Path, *, tags: str = '["#mri"]', rows: int = 100, more: str = "") -> NodeConfiguration:
    np.savez(folder / "mri.npz", x=np.zeros((rows, 2), np.float32))
    text = f"""
name = "bob"
identity = "bob.key"
[charter]
file = "charter.toml"
[[data_sets]]
tags = {tags}
file = "mri.npz"
columns = ["x"]
{more}
"""
    return config.parse(text, folder=folder)


def seen(folder: Path, known: Charter, **data: Any) -> Outlook:
    return outlook(configured(folder, **data), [known], own=BOB, models=BaseFiles(()))


def spend(folder: Path, count: int, *, under: Charter, void: int = 0, noise: Noised | None = None) -> None:
    """So many rounds, of which the first ``void`` have become so."""
    records = Records(folder / "charter.state")
    for number in range(1, count + 1):
        records.consent(Consented(under.digest, number, bytes([number]) * 32, bytes(32), (BOB,), "#mri", noise))
    records.void([Voided(under.digest, bytes([number]) * 32) for number in range(1, void + 1)])
    records.close()


def test_a_node_that_takes_part_in_all_jobs_is_told_what_is_left(tmp_path: Path) -> None:
    found = seen(tmp_path, agreed(rounds="3"))
    assert found.faults == []
    assert [(name, left.data, left.left, left.most) for name, left in found.left] == [("stroke-study", "#mri", 3, 3)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"tags": '["#mra"]'}, "job train of stroke-study wants a data set with the tag '#mri', and none here has it;"),
        ({"rows": 63}, "has 63 rows, and at least 64 are wanted: 2 batches of 32"),
    ],
)
def test_a_job_that_would_be_declined_is_named(tmp_path: Path, data: dict[str, Any], text: str) -> None:
    found = seen(tmp_path, agreed(), **data)
    assert text in found.faults[0]


def test_a_data_set_that_no_job_wants_and_tags_that_are_there(tmp_path: Path) -> None:
    found = seen(tmp_path, agreed(), tags='["#mra", "#b"]')
    assert found.faults[0].endswith("none here has it; there is '#b', '#mra': did you mean '#mra'?")
    assert found.faults[1:] == ["no job of stroke-study wants the data set '#b #mra'"]
    assert found.left == []


def test_two_data_sets_of_one_tag(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros(100))
    more = '[[data_sets]]\ntags = ["#mri", "#other"]\nfile = "other.npy"\ncolumns = ["x"]'
    assert "2 have it here" in seen(tmp_path, agreed(), more=more).faults[0]


def test_the_least_rows_are_the_charters_or_the_owners(tmp_path: Path) -> None:
    known = agreed(min_examples="101")
    assert "at least 101 are wanted: min_examples is 101" in seen(tmp_path, known).faults[0]
    found = configured(tmp_path)
    use = replace(found.charters[0], floors=Floors(min_examples=200, min_batch=64))
    longer = replace(found.charters[0], floors=Floors(max_s=59))
    faults = outlook(replace(found, charters=(use,)), [agreed()], own=BOB, models=BaseFiles(())).faults
    assert "at least 64 are asked for here" in faults[0]
    assert "min_examples is 200" in faults[1]
    faults = outlook(replace(found, charters=(longer,)), [agreed()], own=BOB, models=BaseFiles(())).faults
    assert "at most 59 s are allowed here" in faults[0]


def test_rounds_that_other_studies_have_used_up(tmp_path: Path) -> None:
    known = agreed(rounds="3")
    spend(tmp_path, 2, under=agreed(rounds="4"))
    found = seen(tmp_path, known)
    assert found.left[0][1].left == 1
    assert "it has 3 rounds, and '#mri' has 1 left: it was in 2 releases of other studies" in found.faults[0]
    assert "`rounds` of stroke-study allows 3 in all" in found.faults[0]
    own = configured(tmp_path)
    use = replace(own.charters[0], floors=Floors(rounds=3))
    faults = outlook(replace(own, charters=(use,)), [agreed(rounds="100")], own=BOB, models=BaseFiles(())).faults
    assert "this node's floors allow 3 in all" in faults[0]


def test_the_rounds_of_the_study_itself_are_no_fault(tmp_path: Path) -> None:
    known = agreed(rounds="3")
    spend(tmp_path, 3, under=known)
    found = seen(tmp_path, known)
    assert found.left[0][1].left == 0
    assert found.faults == []


def test_rounds_that_are_void_are_nobody_s(tmp_path: Path) -> None:
    """They are neither other studies' nor taken off what other studies have used up."""
    known = agreed(rounds="3")
    spend(tmp_path, 2, under=known, void=2)
    assert seen(tmp_path, known).faults == []
    spend(tmp_path, 1, under=agreed(rounds="4"))
    assert "it was in 1 releases of other studies" in seen(tmp_path, known).faults[0]


DRAWN: dict[str, Any] = {"rounds": 3, "steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=0.25, rows=25)}
RECORD = '{ unit = "record", multiplier = 3.0, delta = 1e-5 }'
NOISED = Noised("record", 3.0, 0.25, 1.0)


def allowing(rounds: int) -> str:
    """What a data set says that allows what so many rounds cost."""
    return f"epsilon = {epsilon([Spent(3.0, 0.25, rounds)], delta=1e-6) * 1.001}\ndelta = 1e-6"


@pytest.mark.slow
def test_a_job_whose_rounds_cost_more_than_the_data_set_may(tmp_path: Path) -> None:
    known = agreed(DRAWN, noise=RECORD)
    assert seen(tmp_path, known, more=allowing(3)).faults == []
    (fault,) = seen(tmp_path, known, more=allowing(2)).faults
    assert fault.startswith("job train of stroke-study: with all its 3 rounds, the data set '#mri' would have spent")
    assert "and its owner allows" in fault
    (fault,) = seen(tmp_path, agreed(rounds="3"), more=allowing(3)).faults
    assert "this round has no noise" in fault


@pytest.mark.slow
def test_rounds_of_other_studies_cost_too_and_those_of_the_study_are_in_all_of_its_rounds(tmp_path: Path) -> None:
    known, other = agreed(DRAWN, noise=RECORD), agreed({**DRAWN, "rounds": 4}, noise=RECORD)
    spend(tmp_path, 2, under=known, noise=NOISED)
    assert seen(tmp_path, known, more=allowing(3)).faults == []
    spend(tmp_path, 2, under=other, void=1, noise=NOISED)
    assert seen(tmp_path, known, more=allowing(4)).faults == []
    assert "would have spent" in seen(tmp_path, known, more=allowing(3)).faults[0]


@pytest.mark.slow
def test_more_rounds_than_can_be_counted(tmp_path: Path) -> None:
    known = agreed({**DRAWN, "rounds": 1 << 40}, noise=RECORD, rounds=str(1 << 40))
    (fault,) = seen(tmp_path, known, more=allowing(3)).faults
    assert "rounds cannot be counted" in fault


@pytest.mark.slow
def test_a_delta_that_is_much_for_the_rows(tmp_path: Path) -> None:
    known = agreed(DRAWN, noise=RECORD)
    assert seen(tmp_path, known, rows=100, more="epsilon = 50.0\ndelta = 1e-4").faults == []
    (fault,) = seen(tmp_path, known, rows=100, more="epsilon = 50.0\ndelta = 2e-4").faults
    assert "delta = 0.0002 is much for the 100 rows of '#mri': on average 0.02 of them might be told" in fault


def test_a_job_whose_draw_is_for_fewer_rows(tmp_path: Path) -> None:
    known = agreed(DRAWN, noise=RECORD)
    assert seen(tmp_path, known, rows=100).faults == []
    (fault,) = seen(tmp_path, known, rows=101).faults
    assert fault.startswith("job train of stroke-study: of the 101 rows of the data set '#mri' more would be drawn")
    assert fault.endswith("at the rate 0.25, than the 25 that the job expects of all owners together")


def test_drawn_rows_are_in_no_batches(tmp_path: Path) -> None:
    """Without a draw, two batches of 32 are wanted."""
    assert seen(tmp_path, agreed(DRAWN, noise=RECORD), rows=10).faults == []
    (fault,) = seen(tmp_path, agreed(DRAWN, noise=RECORD), rows=9).faults
    assert "at least 10 are wanted: min_examples is 10" in fault


def test_what_the_charter_before_left_open_is_told(tmp_path: Path) -> None:
    first = agreed()
    spend(tmp_path, 2, under=first, void=1)
    (told,) = seen(tmp_path, agreed(serial=2, supersedes=first.digest)).faults  # type: ignore[arg-type]
    assert "1 round(s) were agreed to here and did not come out (2)" in told


def test_who_takes_part_in_no_study_is_told_nothing(tmp_path: Path) -> None:
    assert outlook(configured(tmp_path), [agreed()], own=fingerprint_of("rosa"), models=BaseFiles(())) == Outlook(
        (), ()
    )
    assert outlook(configured(tmp_path), [charter()], own=BOB, models=BaseFiles(())) == Outlook((), ())
    assert outlook(configured(tmp_path), [agreed()], own=None, models=BaseFiles(())) == Outlook((), ())


def test_a_file_that_cannot_be_marked_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = {tmp_path}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in denied)
    with pytest.raises(ConfigurationError, match=r"mri\.npz\.memory is not there, and .* cannot be written"):
        seen(tmp_path, agreed())
    (tmp_path / "mri.npz.memory").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"the node's memory, .*charter\.state, cannot be written"):
        seen(tmp_path, agreed())
    (tmp_path / "charter.state").mkdir()
    assert seen(tmp_path, agreed()).faults == []
