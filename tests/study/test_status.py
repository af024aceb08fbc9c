"""A study's status, as a researcher sees it: what an aggregator says is shown, and does nothing else."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cloister.errors import JobError, MessageError, NetworkError, StudyError
from cloister.net.connection import Connection
from cloister.net.handshake_server import refuse
from cloister.net.policy import AttestationPolicy
from cloister.net.proving import Prover
from cloister.study.status import OwnerState, StudyStatus, ask, dial
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.messages import Welcome, encode
from tests.support.attested import Study, listening, until_closed
from tests.support.tls import SOON, WELCOME

STATUS = w.Status("train", 2, 30, 3, "training", "", 28, ())


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def answered(study: Study, *answers: Any, message: w.Ask | w.Stop | None = None) -> StudyStatus:
    """What is made of an aggregator's answer: a message, or bytes of one, or a refusal's text."""
    instance = study.instance()

    def handle(connection: Connection) -> None:
        hello = Prover(connection, instance).open()
        assert hello is not None
        assert hello.purpose == "status"
        connection.send(Kind.WELCOME, WELCOME)
        assert connection.receive(wait_s=SOON).message() == (message or w.Ask())
        for each in answers:
            if isinstance(each, str):
                refuse(connection, "closing", text=each)
            elif isinstance(each, Welcome):
                connection.send(Kind.WELCOME, each)
            else:
                connection.send(Kind.ROUND, each)
        until_closed(connection)

    with listening(handle, instance.context) as at, study.attest(at, identity=study.carol) as attested:
        return ask(attested, message or w.Ask(), charter=study.charter)


def test_what_is_shown(study: Study) -> None:
    alice, bob = study.alice.fingerprint, study.bob.fingerprint
    owners = (
        w.OwnerStatus(alice, "awaited", "", 7),
        w.OwnerStatus(bob, "out", "it declined: no"),
        w.OwnerStatus("sha256:" + "0" * 64, "there", "whoever that is"),
    )
    found = answered(study, replace(STATUS, owners=owners))
    assert str(found).splitlines() == [
        "job         train, 2 of 30 rounds released",
        "round       3, training",
        "left        28 of the charter's rounds",
        "owner       alice               the round waits for it; 7 rounds left of its data set",
        "owner       bob                 out of the round: it declined: no",
    ]
    assert json.loads(json.dumps(found.describe())) == {
        **{field.name: getattr(found, field.name) for field in dataclasses.fields(found)},
        "owners": [
            {"name": "alice", "doing": "awaited", "why": "", "left": 7},
            {"name": "bob", "doing": "out", "why": "it declined: no", "left": None},
        ],
    }


def test_what_is_shown_between_rounds() -> None:
    owner = OwnerState("bob", "there", "it declined: no")
    shown = StudyStatus("", 0, 0, 0, "between rounds", "round 1 was void: no", 3, (owner,))
    assert str(shown).splitlines() == [
        "job         none",
        "round       between rounds",
        "since       round 1 was void: no",
        "left        3 of the charter's rounds",
        "owner       bob                 there; out of the last round: it declined: no",
    ]
    witness = OwnerState("bob", "awaited", "its connection was lost")
    assert str(witness).endswith("the round waits for it; not in the mean: its connection was lost")


def test_nothing_that_an_aggregator_says_steers_a_terminal(study: Study) -> None:
    """Nor do the owners, whose words it may be."""
    evil = "\x1b[2J\nowner       bob    done\u202e"
    owners = (w.OwnerStatus(study.bob.fingerprint, "out", evil),)
    found = answered(study, w.Status(evil, 0, 1, 1, evil, evil, 1, owners))
    assert len(str(found).splitlines()) == 5
    assert all(line.isprintable() for line in str(found).splitlines())
    assert all(line.startswith(("job", "round", "waits", "left", "owner")) for line in str(found).splitlines())


def test_a_stop_that_is_refused(study: Study) -> None:
    with pytest.raises(JobError, match=r"no job\\x1b"):
        answered(study, w.Refused(0, "job", "no job\x1b"), message=w.Stop())
    assert answered(study, STATUS, message=w.Stop()).job == "train"


def test_whatever_else_it_says(study: Study) -> None:
    for other in (w.Waiting(""), w.Over(1, ""), w.Chain(1, ()), WELCOME):
        with pytest.raises(MessageError):
            answered(study, other)
    with pytest.raises(NetworkError, match="too many questions"):
        answered(study, "too many questions")


def test_a_status_that_is_none(study: Study) -> None:
    for wrong in (
        replace(STATUS, done=-1),
        replace(STATUS, owners=(w.OwnerStatus(study.bob.fingerprint, "asleep", ""),)),  # type: ignore[arg-type]
        replace(STATUS, job="x" * 129),
    ):
        assert encode(wrong)
        with pytest.raises(MessageError):
            answered(study, wrong)


def test_an_identity_that_is_not_taken(study: Study) -> None:
    instance = study.instance()

    def handle(connection: Connection) -> None:
        Prover(connection, instance).open()
        refuse(connection, "peer", text="only members")

    with (
        listening(handle, instance.context) as at,
        study.attest(at, identity=study.dave) as attested,
        pytest.raises(StudyError, match=r"says nothing to this identity.*only members"),
    ):
        ask(attested, w.Ask(), charter=study.charter)


def test_the_addresses_are_tried_one_after_another(study: Study) -> None:
    charter = study.agree(addresses=["aggregator.example:1", "aggregator.example:7443"])
    policy = AttestationPolicy(charter=charter, accept_simulated=True)
    instance = study.instance(charter=charter.digest)

    def handle(connection: Connection) -> None:
        with suppress(NetworkError):
            Prover(connection, instance).open()

    with listening(handle, instance.context) as at:
        nowhere = {"aggregator.example:1": "127.0.0.1:1"}
        found = dial(policy, identity=study.carol, routes={**nowhere, "aggregator.example:7443": at})
        found.close()
        assert found.name == "aggregator.example:7443"
    with pytest.raises(NetworkError):
        dial(policy, identity=study.carol, routes=dict.fromkeys(charter.addresses, "127.0.0.1:1"))
