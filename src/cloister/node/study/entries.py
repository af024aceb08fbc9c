"""The entries of a node's records."""

from __future__ import annotations

from typing import TypeAlias

from cloister.charter.jobs import Weights
from cloister.ledger.records import Noised
from cloister.wire.fields import Digest, Fingerprint, Message


class Began(Message, tag="began", frozen=True):
    """The first entry: the memory's own name, which marks beside data sets carry."""

    memory: Digest


class Content(Message, tag="content", frozen=True):
    """What a data set's file was when it was looked at."""

    data: str
    digest: Digest
    """SHA-256 of the file."""
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    path: str
    """Where the file is, with no links in it."""


class Named(Message, tag="named", frozen=True):
    """The id under which a charter lists this organisation."""

    charter: Digest
    id: Fingerprint


class Listed(Message, tag="listed", frozen=True):
    """The key that a charter lists for the owner with an id, when the two were first seen together."""

    charter: Digest
    study: str
    """The charter's name, which its successors have too."""
    name: str
    """The owner's, in that charter."""
    id: Fingerprint
    key: Fingerprint


class Sketched(Message, tag="sketched", frozen=True):
    """What a model looked like (``cloister.node.study.sketches``) that a round of a charter started from."""

    charter: Digest
    model: Digest
    elements: int
    sketch: bytes


class TookPart(Message, tag="took-part", frozen=True):
    """A contribution to a round, before it was offered."""

    charter: Digest
    round: int
    job: Digest
    data: str
    """The data set: its tags, sorted, with a space between them."""
    digest: Digest
    """The round's."""
    model: Digest
    """What the round started from."""
    content: Digest
    """The data set's."""
    batch_size: int
    """The rows of a step; with the next two, how this owner counts in the mean."""
    weights: Weights
    clip_norm: float | None
    commitment: Digest
    salt: Digest
    noise: Noised | None = None
    """What hides it, in the mean; None where nothing does."""


class Salted(Message, tag="salted", frozen=True):
    """The secret of a data set, which chooses its rows and orders them (``cloister.worker.data.salts``), before it was
    first used."""

    charter: Digest
    """The charter under which that was."""
    data: str
    salt: Digest


class Answered(Message, tag="answered", frozen=True):
    """A round that was answered without a contribution, before the answer was given away."""

    charter: Digest
    round: int


class Consented(Message, tag="consented", frozen=True):
    """A cohort that the owner is in, before it agreed to it."""

    charter: Digest
    round: int
    cohort: Digest
    """SHA-256 of it, encoded."""
    model: Digest
    """What the round started from."""
    members: tuple[str, ...]
    """Their ids, which outlive their keys."""
    data: str
    """The data set that was trained on."""
    noise: Noised | None = None
    """What hides it, in the mean; None where nothing does."""


class Committed(Message, tag="committed", frozen=True):
    """A cohort, with the outcome, before the owner committed it as a member or a witness."""

    charter: Digest
    round: int
    cohort: Digest
    model: Digest
    members: tuple[str, ...]
    """Their ids."""
    outcome: Digest


class Voided(Message, tag="voided", frozen=True):
    """A cohort that answers have shown to be void: it was not released, and never will be."""

    charter: Digest
    cohort: Digest


class Released(Message, tag="released", frozen=True):
    """A record of a charter's ledger, and its round; 0 for an instance's record."""

    charter: Digest
    round: int
    record: bytes


class Kept(Message, tag="kept", frozen=True):
    """The model, and the state of the strategy, that are in a charter's file now."""

    charter: Digest
    model: Digest
    tensors: Digest
    """The digest of the model's tensors, which names it together with the values (``ledger.job.name_of_values``)."""
    state: Digest | None
    """The digest of the state, as a round's record has it; None where there is none."""
    sizes: tuple[int, ...]
    """In bytes: the model's vector, then each of the state's."""
    rounds: int


OfCharter: TypeAlias = TookPart | Salted | Answered | Consented | Committed | Voided | Released | Kept
"""Those that are about one charter alone."""
Entry: TypeAlias = Began | Content | Named | Listed | Sketched | OfCharter
"""One of them."""
