"""What a researcher might try: another training step than the agreed one, and a client that does not stop it."""

from __future__ import annotations

from typing import Any

import msgspec

from cloister.aggregation.vectors import Vector
from cloister.errors import MessageError, UnacceptableError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.net.attested import attest_peer
from cloister.net.policy import AttestationPolicy
from cloister.study.client import StudyClient, bytes_of
from cloister.testing.studies import ADDRESS, LocalStudy
from cloister.wire.rounds import Accepted, Chain, Join, Refused, Submit
from cloister.worker.plans import Plan


def forge(honest: bytes, plan: Plan) -> bytes:
    """An encoded job that differs from ``honest`` in its plan only."""
    return jobs.encode(msgspec.structs.replace(jobs.decode(honest), plan=plan.encode()))


def submit(forged: bytes, model: Vector, *, ledger: Ledger, local: LocalStudy) -> str:
    """Submits a forged job, as the researcher; how the aggregator refuses it.

    ``model``: the values that the job starts from. ``ledger``: the researcher's, with the same records as the
    aggregator's.

    Raises:
        UnacceptableError: the job is accepted. NetworkError: the connection is lost.
    """
    policy = AttestationPolicy(charter=local.charter, accept_simulated=True)
    with StudyClient(
        attest_peer(ADDRESS, policy=policy, identity=local.researcher, at=local.routes[ADDRESS])
    ) as conversation:
        conversation.say(Join(ledger.sequence, ledger.head, ledger.last_round, holds=True))
        while True:
            message: Any = conversation.hear(unless=None)
            match message[0]:
                case Chain(records=(), model=0):
                    conversation.say(Submit(len(forged)), [memoryview(forged), bytes_of(model)])
                case Refused(text=text):
                    return text
                case Accepted():
                    raise UnacceptableError(["the aggregator took a plan that the charter does not name"])
                case other:
                    raise MessageError(f"an aggregator answered a job with {type(other).__name__}")
