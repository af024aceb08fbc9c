"""The data set that an owner trains on in a round, held against what its memory knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cloister.charter.jobs import AgreedJob
from cloister.errors import RoundError
from cloister.node.study.entries import Salted, Sketched
from cloister.node.study.journal import Records


class StudiedData:
    """An owner's data sets under one charter.

    Args:
        charter: its digest.
        tags: those of each data set, by its name (its tags, sorted, spaces between).
        records: the memory, which all charters share.
        content: the digest of a data set's file as it is now, by its name; raises ``RecordsError``.
        new_salt: gives 32 random bytes.
        unsafe_counted_otherwise: the data sets of which jobs may add up otherwise than those before.
        unsafe_salt: the salt of all of them, in a rehearsal that is to be the same each time; None: each has a secret
            one of its own.
    """

    def __init__(
        self,
        charter: bytes,
        tags: Mapping[str, frozenset[str]],
        *,
        records: Records,
        content: Callable[[str], bytes],
        new_salt: Callable[[], bytes],
        unsafe_counted_otherwise: frozenset[str] = frozenset(),
        unsafe_salt: bytes | None = None,
    ) -> None:
        self._charter: Final = charter
        self._tags = dict(tags)
        self._records = records
        self._content = content
        self._new_salt = new_salt
        self._counted_otherwise = unsafe_counted_otherwise
        self._unsafe_salt = unsafe_salt

    def find(self, agreed: AgreedJob) -> str:
        """The name of the one data set that a job is for.

        Raises:
            RoundError: there is none, or more than one; or the job counts its owner otherwise than those before.
        """
        found = [name for name, tags in self._tags.items() if agreed.data in tags]
        if len(found) != 1:
            raise RoundError(
                f"{len(found)} data sets for studies carry the tag {agreed.data!r} here, and a round takes one"
            )
        if found[0] not in self._counted_otherwise:
            check_counted(found[0], agreed, records=self._records)
        return found[0]

    def unchanged(self, data: str, *, seen: Sketched) -> bytes:
        """The content of a data set, which is the same as in all contributions to rounds on the model that was seen.

        Raises:
            RoundError: it has changed: the difference of two contributions would be what has changed in it.
            RecordsError: it cannot be read.
        """
        content = self._content(data)
        if any(entry.content != content for entry in self._records.trained_on(seen, data)):
            raise RoundError(
                f"the data set {data!r} has changed since it contributed to a round on this model that came to"
                " nothing, and the difference would be told; it takes part again once a round on it was released"
            )
        return content

    def salt(self, data: str) -> bytes:
        """The data set's secret, which is on the disk before it is first used."""
        if self._unsafe_salt is not None:
            return self._unsafe_salt
        known = self._records.salt(data)
        if known is None:
            known = self._new_salt()
            self._records.draw(Salted(self._charter, data, known))
        return known


def check_counted(data: str, agreed: AgreedJob, *, records: Records) -> None:
    """Checks that a job adds up as all before it on a data set: else an owner that counts for more in one of two means
    is what they differ by. A charter sees to that for its jobs of one tag; here it holds for whatever was released.

    Raises:
        RoundError: it does not.
    """
    before = records.first_training(data)
    if before is None or agreed.sampling is not None:  # noise hides what two means differ by
        return
    then = (before.batch_size, before.weights, before.clip_norm)
    now = (agreed.batch_size, agreed.weights, agreed.optimizer.clip_norm)
    if now != then:
        raise RoundError(
            f"the data set {data!r} was trained on with {_counted(*then)} before, and this job has {_counted(*now)}: an"
            " owner that counts otherwise in one of two means would be what they differ by. Where its studies share no"
            " model, its owner can say unsafe_counted_otherwise = true"
        )


def _counted(batch_size: int, weights: str, clip_norm: float | None) -> str:
    return f"steps of {batch_size} rows, {weights} weights and clip_norm {'none' if clip_norm is None else clip_norm}"
