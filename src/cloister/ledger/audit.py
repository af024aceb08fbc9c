"""The audit of a chain, offline: the ledger's own checks, and the evidence of every instance that signed in it.

The enclave does not load this. docs/ledger.md says what a chain that passes shows, and what it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from cloister.attest import received
from cloister.attest.dcap.collateral import Collateral, parse_bundle
from cloister.attest.evidence import Evidence
from cloister.attest.reference import Reference
from cloister.attest.verifier import MAKERS, Roots, Verified, verify
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.errors import CollateralError, EvidenceError, LedgerError, NotGenuineError, UnacceptableError
from cloister.ledger.chain import Instance, Ledger, Receipt
from cloister.ledger.jsonl import moment

CollateralSource = Callable[[Evidence, datetime], Collateral | None]
"""A function that gives the collateral for some evidence, at a time."""


class Computed(NamedTuple):
    """A job that was computed: what the charter agreed on under its name, the model that it started from, and how many
    of its rounds came out."""

    job: bytes
    """Its digest."""
    agreed: AgreedJob
    start: bytes
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of an audit: a ledger that holds, and the evidence behind each of its instances."""

    ledger: Ledger
    verified: tuple[Verified, ...]
    """In the order of ``ledger.instances``."""

    @property
    def gaps(self) -> tuple[range, ...]:
        """The numbers below the newest round's under which nothing was released: those rounds were void."""
        numbers = [0, *(receipt.cohort.round for receipt in self.ledger.receipts)]
        return tuple(range(before + 1, after) for before, after in pairwise(numbers) if after > before + 1)

    @property
    def computed(self) -> tuple[Computed, ...]:
        """What was computed, job by job, in the order of their first rounds."""
        first: dict[bytes, Receipt] = {}
        for receipt in self.ledger.receipts:
            first.setdefault(receipt.cohort.job, receipt)
        charter, done = self.ledger.charter, Counter(receipt.cohort.job for receipt in self.ledger.receipts)
        return tuple(
            Computed(digest, agreed, receipt.cohort.model, done[digest])
            for digest, receipt in first.items()
            if (agreed := charter.job(receipt.cohort.name)) is not None
        )

    @property
    def contributed(self) -> dict[str, int]:
        """The number of rounds that each owner contributed to, by its name, in the charter's order."""
        counts = Counter(member for receipt in self.ledger.receipts for member in receipt.members)
        return {owner.name: counts[owner.key] for owner in self.ledger.charter.owners}

    @property
    def committed(self) -> dict[str, int]:
        """The number of rounds that each owner committed, in the cohort or as a witness."""
        counts = Counter(each.member for receipt in self.ledger.receipts for each in receipt.record.commits)
        return {owner.name: counts[owner.key] for owner in self.ledger.charter.owners}

    @property
    def spent(self) -> dict[str, Counter[tuple[float, float]]]:
        """How many rounds each owner contributed to, by their noise: its multiplier and its rate. Those without noise
        are not among them; in a chain either all are or none is, as the charter says."""
        counts: dict[str, Counter[tuple[float, float]]] = {owner.key: Counter() for owner in self.ledger.charter.owners}
        for receipt in self.ledger.receipts:
            if (noise := receipt.cohort.noise) is not None:
                for member in receipt.members:
                    counts[member][noise.multiplier, noise.rate] += 1
        return {owner.name: counts[owner.key] for owner in self.ledger.charter.owners}


def audit(
    records: Iterable[bytes],
    *,
    charter: Charter,
    collateral: CollateralSource,
    accept_simulated: bool = False,
    now: datetime | None = None,
    unsafe_roots: Roots = MAKERS,
) -> Report:
    """Verifies encoded records from the first on.

    Args:
        collateral: used for a record that brings none of its own.
        now: the time as of which evidence is judged; None: each record's own, by a clock which nobody trusts.

    Raises:
        LedgerError: they are no chain of this charter.
        EvidenceError, NotGenuineError, CollateralError, UnacceptableError: an instance's evidence does not stand; as
            ``cloister.attest.verifier.verify``. The message names the record.
    """
    ledger = Ledger.from_records(charter, records)
    policy = partial(
        verify_instance,
        charter=charter,
        collateral=collateral,
        accept_simulated=accept_simulated,
        now=now,
        unsafe_roots=unsafe_roots,
    )
    return Report(ledger=ledger, verified=tuple(map(policy, ledger.instances)))


def verify_instance(
    instance: Instance,
    *,
    charter: Charter,
    collateral: CollateralSource,
    reference: Reference | None = None,
    accept_simulated: bool = False,
    now: datetime | None = None,
    unsafe_roots: Roots = MAKERS,
) -> Verified:
    """Verifies the evidence of one instance of a ledger that holds. ``reference``: acceptable software, where that is
    less than the charter names. The rest is as for ``audit``."""
    what = f"the instance of record {instance.record.sequence}"
    try:
        time = now or moment(instance.record.time)
        if time is None:
            raise LedgerError(f"{what} has a time beyond any calendar: name another to judge by")
        evidence = received.decode(instance.record.evidence)
        failures = _mismatches(instance, evidence, charter, accept_simulated=accept_simulated)
        if failures:
            raise UnacceptableError(failures, genuine=False)
        own = instance.record.collateral
        return verify(
            evidence,
            reference=charter.reference if reference is None else reference,
            collateral=collateral(evidence, time) if own is None else parse_bundle(own),
            now=time,
            report_data=instance.transcript.report_data(),
            unsafe_roots=unsafe_roots,
        )
    except UnacceptableError as fault:
        raise UnacceptableError([f"{what}: {failure}" for failure in fault.failures], genuine=fault.genuine) from None
    except (EvidenceError, NotGenuineError, CollateralError) as fault:
        raise type(fault)(f"{what}: {fault}") from None


def used_once(ledger: Ledger, commitment: bytes) -> Receipt:
    """The one round that used the contribution with this commitment (32 bytes): no ledger has it in two.

    Raises:
        LedgerError: no round used it.
    """
    for receipt in ledger.receipts:
        if any(share.commitment == commitment for share in receipt.cohort.shares):
            return receipt
    raise LedgerError("no round of this ledger used the contribution")


def _mismatches(instance: Instance, evidence: Evidence, charter: Charter, *, accept_simulated: bool) -> list[str]:
    failures = []
    if instance.transcript.tee != evidence.tee:
        failures.append("its transcript calls one kind of TEE what the evidence calls another")
    if instance.transcript.name not in charter.addresses:
        failures.append("the charter names no aggregator at its address")
    if evidence.tee == "simulated" and not accept_simulated:
        failures.append("a simulated TEE proves nothing, and is not accepted here unless that is asked for")
    return failures
