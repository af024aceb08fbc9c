"""A job that ran at an instance before this one, which owners have this one go on with (docs/adr/0018).

Owners start no job: a researcher does. What they say is which job they were last told to be under way; where a quorum
of all owners names the same one, some honest owner was told so by an instance, and too few were told that it is over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from cloister.aggregator.bodies import Body, Resubmission
from cloister.aggregator.chain_exchange import ANSWER_S
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.charter.charter import Charter
from cloister.errors import JobError
from cloister.ledger.chain import quorum
from cloister.wire.limits import JOB_BYTES
from cloister.wire.rounds import Finished, Resubmit

ENDED: Final = 64
"""Jobs of which an instance remembers that they are over."""


@dataclass
class _Asked:
    peer: ConnectedMember
    job: bytes
    until: float | None
    """When it is late; None once its answer arrives."""
    body: Resubmission | None = None


class Resuming:
    """What owners say of the job that runs, and what they are told of those that do not."""

    def __init__(self, charter: Charter, *, peers: ConnectedMembers) -> None:
        self._charter = charter
        self._quorum = quorum(charter)
        self._peers = peers
        self._asked: _Asked | None = None
        self._tries: Counter[str] = Counter()
        """How often each owner was asked for a job; whoever was asked less goes first."""
        self._refused: set[bytes] = set()
        """The jobs that cannot be gone on with."""
        self._ended: dict[bytes, Finished] = {}

    @property
    def due(self) -> float | None:
        """The moment after which the owner that was asked is late."""
        return None if self._asked is None else self._asked.until

    def ask(self, *, now: float) -> None:
        """Asks one owner for the job that a quorum of owners names, if there is such a job."""
        owners = self._peers.owners()
        named = Counter(peer.names for peer in owners if peer.names is not None)
        job = next((job for job, count in named.items() if count >= self._quorum), None)
        if job is None or job in self._refused or self._asked is not None:
            return
        peer = min((peer for peer in owners if peer.names == job), key=lambda peer: self._tries[peer.key])
        self._tries[peer.key] += 1
        self._asked = _Asked(peer, job, now + ANSWER_S)
        self._peers.tell(peer, Resubmit(job=job))

    def expect(self, peer: ConnectedMember, *, body_bytes: int) -> Resubmission:
        """Makes room for the job that an owner was asked for. Raises ``JobError``: it was not, or this is too long."""
        asked = self._asked
        if asked is None or asked.peer is not peer or asked.body is not None:
            raise JobError("nobody asked for this job")
        if body_bytes > JOB_BYTES:
            raise JobError(f"a job of {body_bytes} bytes is over the limit of {JOB_BYTES}")
        asked.until = None
        asked.body = Resubmission(body_bytes, charter=self._charter)
        return asked.body

    def take(self, peer: ConnectedMember, body: Body | None) -> Resubmission:
        """Takes the job that an owner has handed over. Raises ``JobError``: it is another one than it had named."""
        asked = self._asked
        if asked is None or asked.peer is not peer or asked.body is None or asked.body is not body:
            raise JobError("nobody asked for this job")
        self._asked = None
        if asked.body.digest != asked.job:
            raise JobError("this is another job than the one that was named")
        return asked.body

    def refuse(self, job: bytes) -> None:
        """Nobody is asked for this job again."""
        self._refused.add(job)

    def forget(self, peer: ConnectedMember) -> None:
        """Forgets a member that has left."""
        if self._asked is not None and self._asked.peer is peer:
            self._asked = None

    def late(self, *, now: float) -> list[ConnectedMember]:
        """The owner that has taken too long to begin to hand over what it was asked for."""
        asked = self._asked
        return [asked.peer] if asked is not None and asked.until is not None and now >= asked.until else []

    def begin(self, job: bytes) -> None:
        """This job is under way, whatever became of it before."""
        self._ended.pop(job, None)

    def end(self, finished: Finished) -> None:
        """A job is over, as the owners that know it are told, and those that come."""
        self._ended[finished.job] = finished
        if len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]
        self.tell()

    def tell(self) -> None:
        """Tells each owner that is there, once, that the jobs that it holds to be under way are over."""
        for peer in self._peers.owners():
            for job in {each for each in (peer.job, peer.names) if each is not None} & self._ended.keys():
                self._peers.tell(peer, self._ended[job])
                peer.job = None if peer.job == job else peer.job
                peer.names = None if peer.names == job else peer.names
