"""Attack: decline a round in words that are no words: clear the terminals of those who read why, begin lines of the log
of the aggregator's operator, style a researcher's table, or fill their memory.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cloister.net.attested import attest_peer
from cloister.net.policy import AttestationPolicy
from cloister.study.history import History, Round
from cloister.study.status import ask
from cloister.wire import rounds as w
from cloister.wire.limits import REASON_CHARS, TEXT_CHARS
from tests.enclave.test_server import heard_out, researching, seated
from tests.support.lines import Table
from tests.support.owners import key_of
from tests.support.rounds import Study
from tests.support.tls import SOON

FORGED = "no\n2026-01-01 00:00:00,000 INFO cloister.enclave.hub: round 1 is released"
EVIL = f"{FORGED}\r\x1b[2J\x1b]0;owned\x07\u202e\u200b[bold]" + "x" * (TEXT_CHARS - 200)


def declining(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
    return [(w.Declined(message.round, EVIL), b"")] if isinstance(message, w.Ready) else [(message, body)]


@pytest.mark.slow
def test_an_owners_words_reach_the_log_and_the_members_as_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table(tmp_path, agreed={"rounds": 1})
    table.owners["bob"].spoil = declining
    table.owners["chuck"].spoil = lambda message, body: [] if isinstance(message, w.Ready) else [(message, body)]
    with caplog.at_level(logging.INFO), table.serving(), seated(table, "alice", "bob", "chuck"):
        line = researching(table)
        table.submit(line)
        out = heard_out(table, line, w.Out)
        policy = AttestationPolicy(charter=table.charter, accept_simulated=True)
        identity = table.identities["rosa"]
        with attest_peer(table.address, policy=policy, identity=identity, at=table.at, within_s=SOON) as attested:
            status = ask(attested, w.Ask(), charter=table.charter)
        line.close()
    told = [record.getMessage() for record in caplog.records if "is without bob" in record.getMessage()]
    [why] = out.why.values()
    for text in (*told, why, *str(status).splitlines()):
        assert text.isprintable()
        assert "\u200b" not in text
        assert len(text) < REASON_CHARS + 100
    assert told == [f"round 1 is without bob: {why}"]
    assert why.startswith(r"it declined: no\n2026-01-01")
    bob = next(each for each in status.owners if each.name == "bob")
    assert (bob.doing, bob.why) == ("out", why)
    shown = str(History([Round(1, ("alice",), None, {}, {}, 0.1, absent={"bob": why})]))
    assert "[bold]" in shown
    assert all(each.isprintable() for each in shown.splitlines())


@pytest.mark.parametrize("kind", [w.Ready, w.Consent, w.Commit])
def test_in_each_phase(kind: type) -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (w.Declined(message.round, EVIL) if isinstance(message, kind) else message, body)
    ]
    study.run()
    for note in study.instance.notes:
        assert note.isprintable()
        assert len(note) < REASON_CHARS + 100
    assert study.instance.ledger.released == 1
    found = {each.owner: each for each in study.instance.rounds.status().owners}[key_of("bob")]
    assert found.text.isprintable()
    assert len(found.text) <= REASON_CHARS
