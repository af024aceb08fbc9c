"""The aggregator of a charter that is closed to interactive use: what anyone can ask of it, and studies over TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from cloister.enclave.server import Aggregator
from cloister.errors import ConfigurationError, ConnectionLostError, NetworkError, PeerRefusedError, UnreachableError
from cloister.ledger.job import job_digest
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.peers import Address
from cloister.wire.strategies import FedAdam, FedAvg, Strategy
from tests.support import rounds
from tests.support.attested import Study, goodbye, serving
from tests.support.lines import Line, Seated, Table
from tests.support.owners import OWNERS, examples_of
from tests.support.processes import wait_until
from tests.support.tls import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def test_it_proves_itself_to_everyone(study: Study) -> None:
    with study.aggregator() as running:
        for identity in (study.alice, study.bob, study.carol, study.dave):
            with study.attest(running.at, identity=identity) as attested:
                assert attested.connection.peer == running.instance.fingerprint


def test_it_takes_no_sessions_and_no_pushes(study: Study) -> None:
    with study.aggregator() as running:
        for identity, purpose in ((study.carol, "session"), (study.bob, "push")):
            attested = study.attest(running.at, identity=identity)
            with pytest.raises(PeerRefusedError, match="closed to interactive use"):
                greet(attested.connection, purpose=purpose, software="test", wait_s=SOON)  # type: ignore[arg-type]


def test_it_shows_the_key_of_its_instance(study: Study) -> None:
    instance = study.instance()
    aggregator = Aggregator(instance, charter=study.charter, listen=Address("127.0.0.1", 0))
    with serving(aggregator):
        assert aggregator.fingerprint == instance.fingerprint
        assert aggregator.address.port != 0


def test_it_says_when_it_serves(study: Study) -> None:
    aggregator = Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", 0))
    ready = threading.Event()
    thread = threading.Thread(target=aggregator.serve, kwargs={"ready": ready.set})
    thread.start()
    assert ready.wait(SOON)
    study.attest(str(aggregator.address)).close()
    aggregator.stop()
    thread.join(SOON)
    assert not thread.is_alive()


def test_a_stop_before_it_serves_is_a_stop(study: Study) -> None:
    """A signal may come between the two."""
    aggregator = Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", 0))
    aggregator.stop()
    aggregator.serve()


def test_when_it_stops_its_connections_end(study: Study) -> None:
    with study.aggregator() as running:
        attested = study.attest(running.at)
    with pytest.raises(ConnectionLostError):
        attested.attest()
    with pytest.raises(UnreachableError):
        study.attest(running.at)


def test_an_address_that_is_taken(study: Study) -> None:
    with study.aggregator() as running, pytest.raises(ConfigurationError, match="cannot listen"):
        Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", running.port))


def test_many_members_at_once(study: Study) -> None:
    found: list[bytes] = []

    def verify(identity: Identity) -> None:
        with study.attest(running.at, identity=identity) as attested:
            found.append(attested.attest().transcript.instance)

    with study.aggregator() as running:
        threads = [threading.Thread(target=verify, args=(each,)) for each in [study.alice, study.bob, study.carol] * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
    assert len(found) == 9
    assert len(set(found)) == 1


def test_one_member_has_four_connections_and_the_others_keep_theirs(study: Study) -> None:
    with study.aggregator() as running, ExitStack() as held:
        first, *_ = [held.enter_context(study.attest(running.at, identity=study.alice)) for _ in range(4)]
        with pytest.raises(UnreachableError, match="as many connections as it may have"):
            study.attest(running.at, identity=study.alice)
        study.attest(running.at, identity=study.bob).close()
        first.close()
        assert wait_until(lambda: is_let_in(study, running.at), within_s=SOON)


def is_let_in(study: Study, at: str) -> bool:
    try:
        study.attest(at, identity=study.alice).close()
    except UnreachableError:
        return False
    return True


# Studies


@contextmanager
def seated(table: Table, *names: str) -> Iterator[dict[str, Seated]]:
    found: dict[str, Seated] = {}
    try:
        for name in names:
            found[name] = table.sit(name)
        yield found
    finally:
        for each in found.values():
            each.leave()


def researching(table: Table) -> Line:
    """The researcher's connection, by hand."""
    line = table.dial("rosa")
    line.join(table.rosa)
    return line


def by_hand(table: Table, *cohorts: Sequence[str], numbers: Sequence[int] = ()) -> bytes:
    examples = {name: examples_of(name) for name in table.owners}
    found = rounds.by_hand(table.charter, table.job, *cohorts, numbers=numbers, length=table.length, examples=examples)
    return found.tobytes()


def heard_out(table: Table, line: Line, kind: type = w.Finished) -> Any:
    """The next message of this kind to the researcher, which takes all that is handed to it on the way."""
    while not isinstance((heard := line.hear()).message, kind):
        table.rosa.answer(heard)
    return heard.message


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam(0.1)])
def test_a_study_over_tls_is_the_arithmetic_by_hand(tmp_path: Path, strategy: Strategy) -> None:
    table = Table(tmp_path, agreed={"strategy": strategy}, floor="3")
    with table.serving(), seated(table, *OWNERS) as members:
        line = researching(table)
        table.submit(line)
        assert heard_out(table, line, w.Accepted).done == 0
        assert heard_out(table, line) == w.Finished(job_digest(table.data), 3, "")
        line.close()
        assert wait_until(lambda: all(each.ledger.released == 3 for each in table.owners.values()), within_s=SOON)
    wanted = by_hand(table, OWNERS, OWNERS, OWNERS)
    for party in (table.rosa, *table.owners.values()):
        assert party.model[1].startswith(wanted)
        assert party.ledger.released == 3
    assert all(each.line.proofs == 3 for each in members.values())


@pytest.mark.slow
def test_a_contribution_that_is_looked_at_while_it_arrives(tmp_path: Path) -> None:
    """Several pages of 1 MiB: the last values of one owner's are no numbers, and those of the others are all added."""
    table = Table(tmp_path, agreed={"rounds": 1}, length=600_000)
    with table.serving(), seated(table, "alice", "chuck"):
        bob = table.owners["bob"]
        spoilt = bob.update()[:-4] + b"\x00\x00\xc0\x7f"
        bob.spoil = lambda message, body: [(message, spoilt if isinstance(message, w.Contribution) else body)]
        with seated(table, "bob") as members:
            line = researching(table)
            table.submit(line)
            assert heard_out(table, line).done == 1
            line.close()
            assert "norm is not a number" in next(
                each.text for each in members["bob"].told if isinstance(each, w.Refused)
            )
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


@pytest.mark.slow
def test_an_upload_that_stalls_is_cut_off_and_holds_up_nobody(tmp_path: Path) -> None:
    table = Table(tmp_path, agreed={"rounds": 1})
    with table.serving(upload_s=0.2), seated(table, "alice", "chuck"):
        bob, owner = table.dial("bob"), table.owners["bob"]
        bob.join(owner)
        line = researching(table)
        table.submit(line)
        while not isinstance((heard := bob.hear()).message, w.Send):
            for message, body in owner.answer(heard):
                bob.say(message, body)
        bob.connection.send_raw(Kind.ROUND, encode(w.Contribution(1, owner.salt)), len(owner.update()))
        bob.connection.send_body(memoryview(owner.update())[:20])
        assert heard_out(table, line).done == 1
        with pytest.raises(ConnectionLostError):
            bob.until(w.Finished)
        bob.close()
        line.close()
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck")))


def test_a_body_that_nobody_asked_for_is_not_read(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with table.serving():
        for message, claimed in (
            (w.Contribution(1, bytes(32)), 1 << 39),
            (w.Chain(1, (1 << 20,) * 4096), 1 << 32),
            (w.Stop(), 8),
        ):
            line = table.dial("alice")
            line.join(table.owners["alice"])
            line.connection.send_raw(Kind.ROUND, encode(message), claimed)
            line.until(w.Refused)
            assert goodbye(line.connection).code == "protocol"
            line.close()
        line = researching(table)
        line.connection.send_raw(Kind.ROUND, encode(w.Submit(1 << 20)), 8)
        assert "longer" in line.until(w.Refused).text
        line.close()


@pytest.mark.slow
def test_what_has_arrived_decides_the_time_and_not_what_was_claimed(tmp_path: Path) -> None:
    """A member says that 200 MiB of records follow, and sends a few bytes of them, then and now."""
    table = Table(tmp_path, rounds="300", floor="2")
    with table.serving(upload_s=0.2):
        line = table.dial("bob")
        line.say(w.Join(200, bytes(32), 0, False))
        line.until(w.HandOver)
        line.connection.send_raw(Kind.ROUND, encode(w.Chain(1, (1 << 20,) * 200)), 200 << 20)
        assert ends_while_it_trickles(line)
        line.close()


def ends_while_it_trickles(line: Line) -> bool:
    """Whether the other side ends a connection soon, on which a body arrives byte by byte."""
    until = monotonic() + SOON
    try:
        while monotonic() < until:
            line.connection.send_body(memoryview(bytes(100)))
            sleep(0.05)
    except NetworkError:
        return True
    return False


@pytest.mark.slow
def test_a_second_connection_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """An owner whose connection is half dead is not locked out."""
    table = Table(tmp_path, agreed={"rounds": 1})
    with table.serving(), seated(table, "alice", "chuck"):
        first = table.dial("bob")
        first.join(table.owners["bob"])
        with seated(table, "bob"):
            assert goodbye(first.connection).code == "closing"
            line = researching(table)
            table.submit(line)
            assert heard_out(table, line).done == 1
            line.close()
        first.close()
    assert table.rosa.model[1].startswith(by_hand(table, OWNERS))


@pytest.mark.slow
def test_an_owner_that_dies_comes_back_at_a_later_round(tmp_path: Path) -> None:
    table = Table(tmp_path, agreed={"rounds": 2}, floor="3")
    with table.serving(), seated(table, "alice", "chuck"):
        line = researching(table)
        table.submit(line)
        heard_out(table, line, w.Accepted)
        bob = table.dial("bob")
        bob.join(table.owners["bob"])
        bob.until(w.Propose)
        bob.close()
        assert "floor is 3" in heard_out(table, line, w.Over).text
        with seated(table, "bob"):
            assert heard_out(table, line).done == 2
        line.close()
    assert table.rosa.model[1].startswith(by_hand(table, OWNERS, OWNERS, numbers=(2, 3)))


@pytest.mark.slow
def test_the_next_instance_goes_on_from_what_members_hold(tmp_path: Path) -> None:
    table = Table(tmp_path, agreed={"strategy": FedAdam(0.1)}, floor="3")
    with table.serving(), seated(table, *OWNERS) as members:
        line = researching(table)
        table.submit(line)
        for each in members.values():
            assert each.released.acquire(timeout=SOON)
        line.close()
    done = table.owners["alice"].ledger.released
    for owner in table.owners.values():
        owner.job = b""
    with table.serving(), seated(table, *OWNERS):
        line = researching(table)
        table.submit(line)
        assert heard_out(table, line).done == 3
        line.close()
    receipts = table.rosa.ledger.receipts
    assert 0 <= done <= 3
    assert len(receipts) == 3
    numbers = [receipt.cohort.round for receipt in receipts]
    assert numbers == sorted(set(numbers))
    assert table.rosa.model[1].startswith(by_hand(table, OWNERS, OWNERS, OWNERS, numbers=numbers))


def test_strangers_take_no_part(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with table.serving(), pytest.raises(PeerRefusedError, match="only members"):
        table.dial("mallory")


def test_a_member_that_breaks_the_protocol_is_told_so(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with table.serving():
        line = table.dial("alice")
        line.connection.send(Kind.PUSH, w.Stop())
        assert goodbye(line.connection).code == "protocol"
        line.close()
        line = table.dial("alice")
        line.connection.send_raw(Kind.ROUND, b"\xc1", 0)
        assert goodbye(line.connection).code == "protocol"
        line.close()


def test_proofs_are_given_as_often_as_a_study_needs_them(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with table.serving():
        line = table.dial("alice")
        for _ in range(9):
            line.challenge()
        assert goodbye_after_proofs(line) == 8
        line.close()


def goodbye_after_proofs(line: Line) -> int:
    proofs = 0
    while (frame := line.connection.receive(wait_s=SOON)).kind is Kind.PROOF:
        proofs += 1
    assert frame.kind is Kind.REFUSAL
    return proofs
