"""kill -9, at whatever point a round is just then: what owners have on their disks afterwards, and what the chain says.

The explorer (tests/explorer) tries the points one by one, without processes; this is a sample with everything real.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import read_lines
from cloister.ledger.records import cohort_digest
from cloister.node.study.journal import Records
from cloister.study.history import Round
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from tests.e2e.test_study import LIMITS, SEED, SIZES, agreed, data, fit, same, simulated

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KILLED: Final[tuple[tuple[str, ...], ...]] = (
    ("alice",),
    (AGGREGATOR,),
    (AGGREGATOR, *SIZES),
)
"""Who dies as soon as the researcher hears of a round: the next one is under way then."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As at the owners: sums of floats in threads depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStudy]:
    owners = {}
    for name, (x, y) in data().items():
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
        owners[name] = [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#mri",))]
    limits = {**LIMITS, "floor": 3, "rounds": 100}  # all are in each round, so that the end is the simulation's
    jobs = [agreed("train", rounds=len(KILLED) + 1)]
    with LocalStudy(tmp_path, owners, jobs=jobs, limits=limits, rehearsal=SEED) as running:
        running.start_aggregator()
        running.start()
        yield running


def test_what_was_signed_and_released_outlasts_kill_9(local: LocalStudy) -> None:
    left = list(KILLED)

    def kill(done: Round) -> None:
        if left:
            names = left.pop(0)
            for name in names:
                local.kill(name)
            if AGGREGATOR in names:
                local.start_aggregator()
            owners = [name for name in names if name != AGGREGATOR]
            if owners:
                local.start(*owners)

    run = fit(local.study(patience_s=100.0), rounds=len(KILLED) + 1, on_round=kill)
    assert run.finished
    assert not left
    assert same(run.model, simulated(run, floor=3))
    study = local.study()
    command = ["ledger", "audit", str(study.chain), "--charter", str(local.folder / "charter.toml")]
    audited = subprocess.run(
        [sys.executable, "-m", "cloister", *command, "--accept-simulated"], capture_output=True, text=True, check=False
    )
    assert audited.returncode == 0, audited.stderr
    local.close()
    check_disks(
        local, Ledger.from_records(local.charter, read_lines(study.chain.read_bytes().splitlines(keepends=True)))
    )


def check_disks(local: LocalStudy, ledger: Ledger) -> None:
    """What owners remember fits the chain, and what each other remembers."""
    digest = local.charter.digest
    released = {receipt.cohort.round: cohort_digest(receipt.record.cohort) for receipt in ledger.receipts}
    committed: dict[int, bytes] = {}
    with ExitStack() as stack:
        for name in SIZES:
            records = stack.enter_context(closing(Records(local.folder / f"{name}.state", read_only=True)))
            chain = records.chain(digest)
            assert ledger.records[: len(chain)] == chain
            assert records.released(digest) == tuple(released)[: len(records.released(digest))]
            agreed = records.consents(digest)
            assert {each.cohort for each in agreed} >= set(released.values())
            assert set(records.took_part(digest)) >= {each.round for each in agreed}
            assert not any(records.is_void(digest, each) for each in released.values())
            open_ = {each.round for each in agreed if not records.is_void(digest, each.cohort)}
            assert records.spent("#mri") == len(open_) >= len(released)
            for number, commit in records.commits(digest).items():
                other = committed.setdefault(number, commit.cohort)
                assert other == commit.cohort, "two cohorts of one round were committed"
