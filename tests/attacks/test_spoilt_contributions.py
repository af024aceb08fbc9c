"""Attack: be a member, and send what is no contribution, over the wire of a real aggregator.

Whoever does is told so, with the round's number, and is out of the round; the others go on, and what comes out is to
the last bit what comes out when that owner was never there. tests/aggregator/test_protocol.py has each case at the
state machine, and tests/enclave/test_server.py an upload that stalls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cloister.errors import NetworkError
from cloister.ledger.records import commitment
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from tests.attacks.gathering import Gathering
from tests.enclave.test_server import by_hand, heard_out, researching, seated
from tests.support.lines import Line, Seated, Table
from tests.support.owners import LENGTH, Owner
from tests.support.processes import wait_until
from tests.support.tls import SOON

Spoil = Callable[[Any, bytes], list[tuple[Any, bytes]]]


@contextmanager
def gathered(table: Table, *names: str) -> Iterator[dict[str, Seated]]:
    """These take part, and the aggregator knows of it."""
    with seated(table, *names) as members:
        assert wait_until(lambda: all(each.told for each in members.values()), within_s=SOON)
        yield members


def of_values(owner: Owner, values: np.ndarray[Any, Any]) -> Spoil:
    """An honest commitment to these."""

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                committed = commitment(owner.salt, memoryview(values.tobytes()))
                return [(msgspec.structs.replace(message, commitment=committed, norm=1.0, buffers=0.0), b"")]
            case w.Contribution():
                return [(message, values.tobytes())]
        return [(message, body)]

    return spoil


VALUES = {
    "NaN": np.array([*np.ones(LENGTH - 1), np.nan], np.float32),
    "infinity": np.full(LENGTH, -np.inf, np.float32),
    "1e30": np.full(LENGTH, 1e30, np.float32),
    "the greatest float32": np.full(LENGTH, np.finfo(np.float32).max, np.float32),
    "nothing": np.zeros(LENGTH, np.float32),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_no_update(tmp_path: Path, case: str) -> None:
    table = Table(tmp_path, agreed={"rounds": 1})
    table.owners["bob"].spoil = of_values(table.owners["bob"], VALUES[case])
    with table.serving(), gathered(table, "alice", "bob", "chuck") as members:
        line = researching(table)
        table.submit(line)
        assert heard_out(table, line).done == 1
        line.close()
    (refused,) = (each for each in members["bob"].told if isinstance(each, w.Refused))
    assert (refused.round, "norm" in refused.text) == (1, True)
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


LENGTHS = {"empty": b"", "a byte": b"\0", "a value short": bytes(4 * LENGTH - 4), "a value long": bytes(4 * LENGTH + 4)}


def until_sent_for(table: Table, rosa: Line) -> Line:
    """Bob's connection, on which it has trained and is asked for its contribution."""
    line, owner = table.dial("bob"), table.owners["bob"]
    line.say(owner.join())
    owner.answer(line.hear())  # it is there before the job is
    table.submit(rosa)
    while not isinstance((heard := line.hear()).message, w.Send):
        for message, body in owner.answer(heard):
            line.say(message, body)
    return line


def told_until_the_end(line: Line) -> list[Any]:
    told: list[Any] = []
    try:
        while True:
            told.append(line.hear().message)
    except NetworkError:
        return told


@pytest.mark.slow
@pytest.mark.parametrize("case", LENGTHS)
def test_another_length_than_the_models(tmp_path: Path, case: str) -> None:
    """It is refused by the frame's head; none of it is read."""
    table = Table(tmp_path, agreed={"rounds": 1})
    with table.serving(), gathered(table, "alice", "chuck"):
        line = researching(table)
        bob = until_sent_for(table, line)
        bob.say(w.Contribution(1, table.owners["bob"].salt), LENGTHS[case])
        if LENGTHS[case]:
            assert any(isinstance(each, w.Refused) and each.round == 1 for each in told_until_the_end(bob))
        else:
            assert bob.until(w.Refused).round == 1
        assert heard_out(table, line).done == 1
        bob.close()
        line.close()
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [0, 1, 4 * LENGTH - 1])
def test_a_contribution_that_is_cut_off(tmp_path: Path, sent: int) -> None:
    """What had arrived of it is in no sum."""
    table = Table(tmp_path, agreed={"rounds": 1})
    with table.serving(), gathered(table, "alice", "chuck"):
        line = researching(table)
        bob = until_sent_for(table, line)
        owner = table.owners["bob"]
        bob.connection.send_raw(Kind.ROUND, encode(w.Contribution(1, owner.salt)), len(owner.update()))
        bob.connection.send_body(memoryview(owner.update())[:sent])
        bob.connection.interrupt()
        assert heard_out(table, line).done == 1
        bob.close()
        line.close()
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


@pytest.mark.slow
def test_another_contribution_than_was_committed_to_and_a_round_that_is_not_on(tmp_path: Path) -> None:
    for folder, spoil in (
        ("bytes", lambda message, body: [(message, body[:-1] + b"\1" if body else body)]),
        ("round", lambda message, body: [(w.Contribution(7, message.salt) if body else message, body)]),
    ):
        (tmp_path / folder).mkdir()
        table = Table(tmp_path / folder, agreed={"rounds": 1})
        table.owners["bob"].spoil = spoil
        with table.serving(upload_s=0.2), gathered(table, "alice", "bob", "chuck") as members:
            line = researching(table)
            table.submit(line)
            assert heard_out(table, line).done == 1
            line.close()
        assert any(isinstance(each, w.Refused) for each in members["bob"].told)
        assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


def test_the_owners_node_writes_down_why() -> None:
    study = Gathering(agreed={"rounds": 1})
    bob = study.nodes["bob"]
    bob.train = lambda order: np.full(LENGTH, np.nan, np.float32).tobytes()
    bob.norms = (1.0, 1.0)  # with the norm that it has it would be refused before it is sent
    study.run()
    assert any("the aggregator refuses our contribution: the contribution's norm" in note for note in bob.notes)
    study.check(("alice", "chuck"))
