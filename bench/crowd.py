"""How much memory an aggregator takes with many members: they are threads of this process, and light ones.

Each speaks the protocol with its own key, but they all contribute the same numbers, keep nothing and check nothing.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import parties
from cloister.charter import keys
from cloister.errors import NetworkError
from cloister.ledger import answers
from cloister.ledger.answers import Answer
from cloister.ledger.records import cohort_digest, commit_to_be_signed, commitment, consent_to_be_signed
from cloister.net.attested import attest_peer
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.testing.studies import ADDRESS, AGGREGATOR, LocalStudy
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.peers import fingerprint

NBYTES, ROUNDS = 25_000_000, 3
CROWDS = (2, 10, 100)


def run(console: Console) -> None:
    """(p)."""
    empty = _peak(0)
    limit = 3 * NBYTES / (1 << 20) + 64
    table = Table(
        title=f"(p) the aggregator's peak of memory, {ROUNDS} rounds, members of {NBYTES // 1_000_000} MB; MiB",
        title_justify="left",
    )
    for column in ("members", "peak", "above the empty process", "aim"):
        table.add_column(column, justify="right")
    table.add_row("none", f"{empty:,.0f}", "", "")
    for owners in CROWDS:
        peak = _peak(owners)
        table.add_row(str(owners), f"{peak:,.0f}", f"{peak - empty:,.0f}", f"{limit:,.0f}")
    console.print(table)


def _peak(owners: int) -> float:
    """The most memory that the aggregator's process has held, in MiB; without owners, before anybody came."""
    names = [f"owner{number:03}" for number in range(owners or 2)]
    limits = parties.limits(NBYTES, owners=len(names), rounds=ROUNDS)
    members: list[threading.Thread] = []
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder:
        jobs = [parties.agreed(NBYTES, rounds=ROUNDS)]
        with LocalStudy(Path(folder), dict.fromkeys(names, ()), jobs=jobs, limits=limits) as study:
            study.start_aggregator()
            if owners:
                members = _hold_rounds(study)
            lines = Path(f"/proc/{study.pid(AGGREGATOR)}/status").read_text().splitlines()
        for member in members:  # the aggregator's end is theirs
            member.join()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _hold_rounds(study: LocalStudy) -> list[threading.Thread]:
    update = np.full(NBYTES // 4, 1e-3, np.float32).data.cast("B")
    arguments = ((study, identity, update) for identity in study.identities.values())
    members = [threading.Thread(target=_attend, args=each) for each in arguments]
    for member in members:
        member.start()
    (route,) = study.routes.values()
    command = [sys.executable, "-m", "bench.parties", "-", "researcher", str(study.folder), route]
    subprocess.run([*command, str(NBYTES)], stdout=subprocess.DEVNULL, check=True)
    return members


def _attend(study: LocalStudy, identity: Identity, update: memoryview) -> None:
    policy = AttestationPolicy(charter=study.charter, accept_simulated=True)
    key, salt, least = private_key(identity.path), b"", study.charter.limits.min_examples
    public = keys.public_bytes(key)

    def sign(message: bytes) -> w.MemberSignature:
        return w.MemberSignature(fingerprint(public), public, keys.sign(message, key=key))

    attested = attest_peer(ADDRESS, policy=policy, identity=identity, at=study.routes[ADDRESS], within_s=60.0)
    with attested, suppress(NetworkError):
        connection = attested.connection
        greet(connection, purpose="study", software="bench", wait_s=60.0)
        connection.send(Kind.ROUND, w.Join(0, b"", 0, holds=False))
        while True:
            frame = connection.receive(wait_s=None)
            connection.skip(frame.body_bytes)
            match frame.message() if frame.kind is Kind.ROUND else None:
                case w.Propose(round=number):
                    salt = secrets.token_bytes(32)  # a commitment counts once
                    # What it has committed before was released, or is a matter of no owner's that keeps no records.
                    answer = Answer("cloister answer 1", study.charter.digest, number, 0, b"", ())
                    ready = w.Ready(
                        number, least, 1e3, 0.0, {}, commitment(salt, update), w.Standing(answers.sign(answer, key=key))
                    )
                    connection.send(Kind.ROUND, ready)
                case w.Send(round=number):
                    connection.send(Kind.ROUND, w.Contribution(number, salt), [update])
                case w.Draft(round=number, cohort=cohort):
                    signature = sign(consent_to_be_signed(cohort))
                    connection.send(Kind.ROUND, w.Consent(number, cohort_digest(cohort), signature))
                case w.Settle(round=number, cohort=cohort, outcome=outcome):
                    signature = sign(commit_to_be_signed(cohort, outcome))
                    connection.send(Kind.ROUND, w.Commit(number, signature))
                case None:
                    return
