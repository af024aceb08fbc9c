"""An owner's copy of a ledger and its newest model, as the aggregator's own state machine hands them over."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cloister.errors import RoundError
from cloister.ledger import job as jobs
from cloister.node.study.journal import Records
from cloister.node.study.replica import Replica
from cloister.wire import rounds as w
from cloister.wire.strategies import FedAdam, FedAvg, FedAvgM, Strategy
from tests.support.owners import LENGTH, Heard, agree, agreed, key_of, make_job
from tests.support.rounds import Study

STRATEGIES: dict[str, Strategy] = {"FedAvg": FedAvg(), "FedAvgM": FedAvgM(), "FedAdam": FedAdam(0.1)}


def one_round(strategy: str) -> Study:
    """A study whose first job is over, after a round without chuck."""
    study = Study(agree(jobs=[agreed(rounds=1, strategy=STRATEGIES[strategy]), agreed(name="more", rounds=1)]))
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    assert study.instance.ledger.released == 1
    return study


def next_job(study: Study) -> jobs.Job:
    """Rosa's next job goes on from the newest model, and waits for a quorum."""
    study.instance.disconnect("alice")
    vector = bytes(study.rosa.model[1][: LENGTH * 4])
    job = make_job(study.charter, name="more", start=study.instance.ledger.model)
    data = jobs.encode(job)
    study.instance.say("rosa", w.Submit(len(data)), data + vector)
    study.settle()
    return job


def replica(study: Study, records: Records) -> Replica:
    found = Replica(study.charter, records=records, verify_instance=lambda instance: None)
    found.begin(study.instance.signer)
    return found


def chains_for(study: Study, name: str) -> list[Heard]:
    """What the aggregator hands over to a member that begins with nothing."""
    study.instance.connect(name)
    study.instance.say(name, w.Join(0, b"", 0, holds=False))
    return [heard for heard in study.instance.heard[key_of(name)] if isinstance(heard.message, w.Chain)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_owner_without_the_model_joins_a_second_job(strategy: str) -> None:
    """The strategy of the second one remembers nothing yet, whatever the first one's did."""
    study = one_round(strategy)
    job = next_job(study)
    chuck = replica(study, Records(None))
    for heard in chains_for(study, "chuck"):
        chuck.take(heard.message, memoryview(heard.body), job=job)
    assert chuck.ledger.records == study.instance.ledger.records
    assert chuck.model is not None
    assert chuck.model.digest == study.instance.ledger.model
    assert (chuck.whole is None) == (strategy != "FedAvg"), "nobody can hand over what the first strategy remembered"


@pytest.mark.parametrize("strategy", ["FedAvgM", "FedAdam"])
def test_what_a_strategy_remembers_is_given_away_for_nothing_less(strategy: str, tmp_path: Path) -> None:
    study = one_round(strategy)
    [whole] = chains_for(study, "chuck")
    study.instance.disconnect("chuck")
    job = next_job(study)
    [bare] = chains_for(study, "chuck")
    assert bare.message.state == ()
    with closing(Records(tmp_path)) as records:
        first = replica(study, records)
        first.take(bare.message, memoryview(bare.body), job=job)
        assert first.whole is None
        first.take(whole.message, memoryview(whole.body), job=job)
        assert first.whole is not None
        first.take(bare.message, memoryview(bare.body), job=job)
        assert first.whole is not None
        records.catch_up(whole=True)
    with closing(Records(tmp_path)) as records:
        assert replica(study, records).whole is not None


def test_what_another_strategy_remembers_is_refused() -> None:
    study = one_round("FedAvgM")
    [whole] = chains_for(study, "chuck")
    spoilt = bytearray(whole.body)
    spoilt[-1] ^= 1
    chuck = replica(study, Records(None))
    with pytest.raises(RoundError, match="the state of the strategy is not the one"):
        chuck.take(whole.message, memoryview(bytes(spoilt)), job=study.job)
    assert not chuck.ledger.records
