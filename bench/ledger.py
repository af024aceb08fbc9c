"""An audit of a long chain with many signatures."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from time import perf_counter, time_ns

import msgspec
from rich.console import Console

from bench import parties
from cloister.attest.attester import find
from cloister.charter import keys
from cloister.charter.keys import PrivateKey
from cloister.ledger import job as jobs
from cloister.ledger import records
from cloister.ledger.audit import audit
from cloister.ledger.chain import Ledger
from cloister.ledger.records import Cohort, InstanceRecord, RoundRecord, Share
from cloister.net.collateral import no_collateral
from cloister.net.identity import private_key
from cloister.net.proving import Instance
from cloister.testing.studies import ADDRESS, LocalStudy
from cloister.wire.rounds import MemberSignature

ROUNDS, MEMBERS = 100, 71


def run(console: Console) -> None:
    """(r)."""
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder:
        owners = {f"owner{number:02}": () for number in range(MEMBERS)}
        limits = parties.limits(4, owners=MEMBERS, rounds=ROUNDS)
        study = LocalStudy(Path(folder), owners, jobs=[parties.agreed(4, rounds=ROUNDS)], limits=limits)
        keys = {identity.fingerprint: private_key(identity.path) for identity in study.identities.values()}
        chain = make_chain(Ledger(study.charter), keys)
        started = perf_counter()
        report = audit(chain, charter=study.charter, collateral=no_collateral, accept_simulated=True)
        seconds = perf_counter() - started
    assert report.ledger.released == ROUNDS
    size = sum(map(len, chain)) / (1 << 20)
    console.print(f"(r) audit of {ROUNDS} rounds x {MEMBERS} members, {size:.1f} MiB: {seconds:.1f} s (aim: 10 s)\n")


def make_chain(ledger: Ledger, owners: dict[str, PrivateKey]) -> tuple[bytes, ...]:
    """A genuine chain of one instance, in which nothing was computed: who signs, signs for random names of models."""
    charter = ledger.charter
    attester = find("simulated", role="aggregator")
    instance = Instance(role="aggregator", attester=attester, charter=charter.digest, name=ADDRESS)
    proof = instance.prove(instance.transcript(records.nonce_of(b""), client=None))
    first = InstanceRecord(
        charter=charter.digest,
        sequence=1,
        previous=b"",
        transcript=proof.transcript,
        evidence=proof.evidence,
        collateral=None,
        time=_now(),
        signature=b"",
    )
    _append(ledger, first, instance)
    for _ in range(ROUNDS):
        _append(ledger, _round(ledger, owners, instance), instance)
    return ledger.records


def _round(ledger: Ledger, owners: dict[str, PrivateKey], instance: Instance) -> RoundRecord:
    charter, number = ledger.charter, ledger.last_round + 1
    job, model, before = bytes(32), secrets.token_bytes(32), ledger.model or b""
    outcome = records.outcome_digest(bytes(32), model=model, state=None, metrics={})
    digest = jobs.round_digest(job, charter=charter.digest, number=number, model=before, head=ledger.head)
    cohort = Cohort(
        format="cloister cohort 4",
        charter=charter.digest,
        sequence=ledger.sequence + 1,
        previous=ledger.head,
        signer=instance.signing_key,
        round=number,
        job=job,
        name=charter.jobs[0].name,
        digest=digest,
        model=before,
        shares=tuple(Share(member, 1 / len(owners), secrets.token_bytes(32)) for member in sorted(owners)),
        noise=None,
    )
    encoded = records.encode(cohort)
    return RoundRecord(
        cohort=encoded,
        salt=bytes(32),
        model=model,
        state=None,
        metrics={},
        consents=_signed(records.consent_to_be_signed(encoded), owners),
        commits=_signed(records.commit_to_be_signed(encoded, outcome), owners),
        time=_now(),
        signature=b"",
    )


def _signed(message: bytes, owners: dict[str, PrivateKey]) -> tuple[MemberSignature, ...]:
    return tuple(
        MemberSignature(member, keys.public_bytes(owners[member]), keys.sign(message, key=owners[member]))
        for member in sorted(owners)
    )


def _append(ledger: Ledger, record: records.Record, instance: Instance) -> None:
    signature = instance.sign(records.to_be_signed(record))
    ledger.append(records.encode(msgspec.structs.replace(record, signature=signature)))


def _now() -> int:
    return time_ns() // 1_000_000
