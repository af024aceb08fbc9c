"""An operator, or a member, who brings back an older charter, forks one, or drops an owner without asking it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.charter import Charter
from cloister.charter.signatures import encode
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.node.config import CharterUse
from cloister.node.setup import load_charter
from tests.support.charters import NOW, SGX, SIMULATED, fingerprint_of, signatures, text

BOB = fingerprint_of("bob")


class Node:
    """Bob's node. Whoever attacks it writes its charter and signatures, but not its memory."""

    def __init__(self, folder: Path) -> None:
        self.use = CharterUse(
            file=folder / "charter.toml",
            signatures=folder / "charter.sigs",
            state=folder / "state",
            accept_simulated=True,
            collateral=None,
            floors=None,
        )
        self.use.signatures.mkdir()

    def restart(self, written: str, *signers: str) -> Charter:
        """Starts with that charter, signed by those members or by all owners."""
        agreed = parse_charter(written)
        self.use.file.write_text(written)
        for file in self.use.signatures.iterdir():
            file.unlink()
        for number, signature in enumerate(signatures(agreed, *signers)):
            (self.use.signatures / f"{number}.sig").write_text(encode(signature))
        return load_charter(self.use, own=BOB, now=NOW)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


FIRST = text()
SECOND = text(serial=2, supersedes=parse_charter(FIRST).digest, floor="3")


def test_the_laxer_charter_of_last_year_does_not_come_back(node: Node) -> None:
    node.restart(FIRST)
    node.restart(SECOND)
    with pytest.raises(CharterError, match="an older charter does not come back"):
        node.restart(FIRST)
    assert node.restart(SECOND).serial == 2  # and the refusal left nothing behind


def test_one_serial_has_one_charter(node: Node) -> None:
    node.restart(FIRST)
    node.restart(SECOND)
    fork = text(serial=2, supersedes=parse_charter(FIRST).digest, floor="2")
    with pytest.raises(CharterError, match="a change needs the next serial"):
        node.restart(fork)


def test_a_successor_of_a_fork_is_none(node: Node) -> None:
    node.restart(FIRST)
    node.restart(SECOND)
    fork = text(serial=2, supersedes=parse_charter(FIRST).digest)
    with pytest.raises(CharterError, match="supersedes another charter"):
        node.restart(text(serial=3, supersedes=parse_charter(fork).digest))


@pytest.mark.parametrize("serial", [2, 9])
def test_no_owner_is_dropped_without_its_signature(node: Node, serial: int) -> None:
    node.restart(FIRST)
    without = text(serial=serial, supersedes=parse_charter(FIRST).digest, owners=("bob", "alice"))
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        node.restart(without)
    demoted = text(serial=serial, supersedes=parse_charter(FIRST).digest, owners=("bob", "alice"), auditors=("chuck",))
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        node.restart(demoted)
    assert node.restart(demoted, "bob", "alice", "chuck").serial == serial


def test_a_real_charter_does_not_fall_back_to_simulation(node: Node) -> None:
    with pytest.raises(CharterError, match="stands beside no real one"):
        parse_charter(text(software=SGX + SIMULATED))
    node.restart(text(software=SGX))
    with pytest.raises(CharterError, match="a change needs the next serial"):
        node.restart(text(software=SIMULATED))
