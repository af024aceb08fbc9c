"""A node's first words under a successor: what it goes on from, and what stays open of the charter before."""

from __future__ import annotations

from cloister.node.study.entries import Consented, Voided
from cloister.node.study.journal import Records
from cloister.node.study.succeeded import remarks
from tests.support import chains

OLD = chains.charter()
CHAIN = chains.chain(2)


def successor(model: bytes):
    return chains.charter(serial=2, supersedes=OLD.digest, first_model=f'"{model.hex()}"')


def known() -> Records:
    records = Records(None)
    rounds = {receipt.cohort.sequence: receipt.cohort.round for receipt in CHAIN.receipts}
    records.release(OLD.digest, [(rounds.get(at, 0), each) for at, each in enumerate(CHAIN.records, 1)])
    return records


def agreed(number: int) -> Consented:
    return Consented(OLD.digest, number, chains.digest(number), chains.START, ("a", "b"), "#mri")


def test_nothing_where_a_study_just_goes_on() -> None:
    records = known()
    assert [*remarks(OLD, records=records)] == []
    records.consent(agreed(1))  # it was released
    assert CHAIN.model is not None
    assert [*remarks(successor(CHAIN.model), records=records)] == []
    assert [*remarks(successor(chains.START), records=Records(None))] == []  # it was not there before


def test_another_first_model_than_the_last_one() -> None:
    (told,) = remarks(successor(chains.START), records=known())
    assert "serial 2 of 'stroke-study' starts from another model" in told
    assert CHAIN.model is not None
    assert CHAIN.model.hex() in told


def test_rounds_that_did_not_come_out() -> None:
    records = known()
    assert CHAIN.model is not None
    for number in (3, 4):
        records.consent(agreed(number))
    (told,) = remarks(successor(CHAIN.model), records=records)
    assert "2 round(s) were agreed to here and did not come out (3, 4). They stay spent" in told
    records.void([Voided(OLD.digest, chains.digest(3)), Voided(OLD.digest, chains.digest(4))])
    assert [*remarks(successor(CHAIN.model), records=records)] == []
