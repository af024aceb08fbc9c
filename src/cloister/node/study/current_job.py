"""The job that an owner was told to be under way, which it gives to an instance that has none (docs/adr/0018).

An owner starts no job. It names the newest one that it accepted to train for, until it hears that this one is over.
"""

from __future__ import annotations

from cloister.charter import Charter
from cloister.errors import JobError, RoundError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.node.study.effects import Say
from cloister.node.study.journal import Records
from cloister.wire import rounds as w


class CurrentJob:
    """One charter's, which ``records`` keeps."""

    def __init__(self, charter: Charter, *, records: Records) -> None:
        self._charter = charter
        self._records = records
        self._data = records.job(charter.digest) or b""
        self._digest = jobs.job_digest(self._data)

    def named(self, ledger: Ledger) -> bytes | None:
        """Its digest; None where there is none, or no rounds of it are left."""
        try:
            agreed = jobs.agreed(jobs.decode(self._data), charter=self._charter)
        except JobError:  # there is none, or its file is damaged: others have it
            return None
        return self._digest if ledger.rounds_of(agreed.name) < agreed.rounds else None

    def keep(self, data: bytes) -> None:
        """Keeps a job that was accepted, in the place of the one before. Raises ``RecordsError``."""
        if data != self._data:
            self._records.keep_job(self._charter.digest, data)
            self._data, self._digest = data, jobs.job_digest(data)

    def forget(self, job: bytes) -> None:
        """Forgets a job that is over, unless another one is under way. Raises ``RecordsError``."""
        if job == self._digest:
            self._records.keep_job(self._charter.digest, b"")
            self._data, self._digest = b"", jobs.job_digest(b"")

    def hand_over(self, job: bytes) -> Say:
        """The message with the job.

        Raises:
            RoundError: it is not this one that is asked for.
        """
        if job != self._digest or not self._data:
            raise RoundError("the aggregator asks for a job that this owner does not call under way")
        return Say(w.Resubmitted(), (self._data,))
