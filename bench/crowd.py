"""Rounds of many members: time, memory, and whether a later round takes more of it than the second.

Up to the charter's limit members are threads of this process, and light ones, of a real aggregator: each speaks the
protocol with its own key, but they all contribute the same numbers, keep nothing and check nothing. A charter names 256
members at most, so what a thousand would cost is measured of the collection alone, in a process of its own, without
messages: the contributions are made in memory, hashed, looked at, checked against their commitments and added up, and
the mean is applied to the model and hashed.

``python -m bench.crowd COUNT BYTES ROUNDS`` is that process. It prints, for each round, its seconds and its peak.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import parties
from cloister.aggregation.strategies import FedAvg, State
from cloister.aggregator.bodies import Body
from cloister.aggregator.collection import Collection
from cloister.aggregator.weighing import Answer, WeightedMean
from cloister.charter import keys
from cloister.charter.charter import Limits, Member
from cloister.enclave.server import give_back_large
from cloister.errors import NetworkError
from cloister.ledger import answers
from cloister.ledger.records import cohort_digest, commit_to_be_signed, commitment, consent_to_be_signed
from cloister.net.attested import attest_peer
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.testing.studies import ADDRESS, AGGREGATOR, LocalStudy
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.layout import lay_out, regions_of
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.peers import fingerprint
from cloister.wire.tensors import TensorSpec

MB: Final = 1_000_000
ROUNDS: Final = 10
CROWDS: Final = ((2, 25 * MB), (10, 25 * MB), (100, 25 * MB))
COLLECTED: Final = ((1_000, 1 * MB), (100, 25 * MB))


class Held(NamedTuple):
    """A round: when it was over, in seconds, and the most memory that the process had held by then, in MiB."""

    at: float
    peak: float


def run(console: Console) -> None:
    """(p)."""
    _show(console, "(p) an aggregator with many members", CROWDS, _empty, _rounds)
    _show(
        console,
        "(p) the collection alone, contributions made in memory",
        COLLECTED,
        lambda: _collected(0, 4)[0],
        _collected,
    )


def _show(
    console: Console,
    title: str,
    crowds: Iterable[tuple[int, int]],
    empty: Callable[[], Held],
    rounds: Callable[[int, int], list[Held]],
) -> None:
    base = empty().peak
    table = Table(title=f"{title}, {ROUNDS} rounds; memory in MiB above {base:,.0f} at the start", title_justify="left")
    for column in ("members", "s a round", "peak, round 2", f"round {ROUNDS}", "growth", "aim"):
        table.add_column(column, justify="right")
    for owners, nbytes in crowds:
        found = rounds(owners, nbytes)
        seconds = statistics.median(after.at - before.at for before, after in pairwise(found))
        early, late = found[1].peak - base, found[-1].peak - base
        cells = (f"{seconds:,.2f}", f"{early:,.0f}", f"{late:,.0f}", f"{late - early:+,.1f}")
        limit = 3 * nbytes / (1 << 20) + 64
        table.add_row(f"{owners:,} x {nbytes // MB} MB", *cells, f"{limit:,.0f}, growth 0")
    console.print(table)


def _peak(pid: int | str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _empty() -> Held:
    """An aggregator to whom nobody came."""
    with _study(2, MB) as study:
        return Held(perf_counter(), _peak(study.pid(AGGREGATOR)))


def _rounds(owners: int, nbytes: int) -> list[Held]:
    with _study(owners, nbytes) as study:
        update = np.full(nbytes // 4, 1e-3, np.float32).data.cast("B")
        arguments = ((study, identity, update) for identity in study.identities.values())
        members = [threading.Thread(target=_attend, args=each) for each in arguments]
        for member in members:
            member.start()
        (route,) = study.routes.values()
        command = [sys.executable, "-m", "bench.parties", "-", "researcher", str(study.folder), route, str(nbytes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as researcher:
            assert researcher.stdout is not None
            found = [Held(float(line), _peak(study.pid(AGGREGATOR))) for line in researcher.stdout]
    for member in members:  # the aggregator's end is theirs
        member.join()
    return found[-ROUNDS:]  # before them comes the model that the study begins with


@contextmanager
def _study(owners: int, nbytes: int) -> Iterator[LocalStudy]:
    names = [f"owner{number:03}" for number in range(owners)]
    limits = parties.limits(nbytes, owners=owners, rounds=ROUNDS)
    jobs = [parties.agreed(nbytes, rounds=ROUNDS)]
    with (
        tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder,
        LocalStudy(Path(folder), dict.fromkeys(names, ()), jobs=jobs, limits=limits) as study,
    ):
        study.start_aggregator()
        yield study


def _collected(owners: int, nbytes: int) -> list[Held]:
    command = [sys.executable, "-m", "bench.crowd", str(owners), str(nbytes), str(ROUNDS)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [Held(*map(float, line.split())) for line in lines]


def collect(owners: int, nbytes: int, rounds: int) -> None:
    """Collects from so many owners, round after round; without owners it only tells of the empty process."""
    give_back_large()
    if not owners:
        print(perf_counter(), _peak("self"))
        return
    names = [f"owner{number:05}" for number in range(owners)]
    layout = lay_out({"weight": TensorSpec("float32", (nbytes // 4,))})
    regions = regions_of(layout, buffers=())
    limits = _limits(owners, rounds)
    part, salt, length = np.full(CHUNK_BYTES // 4, 1e-3, np.float32).data.cast("B"), bytes(32), nbytes // 4
    norm = math.sqrt(length) * float(np.float32(1e-3)) * (1 + 1e-9)
    model, hashed = np.zeros(length, np.float32), hashlib.sha256(salt)
    for start in range(0, nbytes, CHUNK_BYTES):
        hashed.update(part[: nbytes - start])
    answers = {
        name: Answer(Member(name=name, role="owner", key=name, id=name), 1, (norm, 0.0), {}, hashed.digest())
        for name in names
    }
    for _ in range(rounds):
        weighing = WeightedMean(limits, layout, by_rows=False, regions=regions)
        collection = Collection(answers, limits=limits, weighing=weighing, layout=layout, regions=regions)
        while asked := collection.next():
            bodies = {name: collection.buffer(name, salt=salt) for name in asked}
            for name in asked:
                _fill(bodies[name], part)
                collection.take(name, bodies.pop(name))
        model, _ = FedAvg().apply(model, mean=collection.mean(), state=State())
        hashlib.sha256(model.data).digest()
        print(perf_counter(), _peak("self"), flush=True)


def _fill(body: Body, part: memoryview) -> None:
    for buffer in body.buffers():
        buffer[:] = part[: len(buffer)]
        body.update(buffer)


def _limits(owners: int, rounds: int) -> Limits:
    return Limits(
        floor=owners,
        largest_share=1.0,
        clip=1e6,
        clip_buffers=None,
        home_buffers=False,
        noise=None,
        rounds=rounds,
        min_examples=1,
        min_batch=1,
        min_rows=1,
        row_buckets=(),
        proven_plans=False,
        first_model=None,
        first_model_file=None,
        metrics=(),
        interactive=False,
        lost_key_days=0,
    )


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
                    answer = answers.Answer("cloister answer 1", study.charter.digest, number, 0, b"", ())
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


if __name__ == "__main__":
    collect(*map(int, sys.argv[1:]))
