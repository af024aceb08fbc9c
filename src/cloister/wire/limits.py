"""How large anything that travels may be.

Every length, count, depth and name on the wire has its limit here, so that a reader finds all of them on one page and a
hostile peer finds none missing. They bound what one message may claim; what one *session* may hold is the node's to
configure (memory, objects).
"""

from __future__ import annotations

from typing import Final

HEADER_BYTES: Final = 1 << 20
"""A frame's header (its message), in bytes."""

BODY_BYTES: Final = 1 << 40
"""A frame's body, in bytes. A sanity bound: a session's memory limit decides, before anything is allocated."""

CHUNK_BYTES: Final = 1 << 20
"""The most that is read or written at once, so that memory stays bounded while a body passes through."""

COMMANDS: Final = 4096
"""Commands in one message."""

ARGUMENTS: Final = 64
"""Arguments of one operation."""

LIST_ITEMS: Final = 4096
"""Items in one list argument, outputs of one operation, or objects named by one command."""

DIMENSIONS: Final = 16
"""Dimensions of a tensor."""

SIZE: Final = 1 << 48
"""One dimension's size, and a tensor's number of elements."""

NAME_CHARS: Final = 128
"""An operation's name, an argument's name, a tag, a worker's name."""

TEXT_CHARS: Final = 4096
"""An explanation for a person."""

REASON_CHARS: Final = 512
"""Why an owner is out of a round."""

WAIT_S: Final = 3600
"""Seconds that a worker may have a caller wait, or stay away."""

TAGS: Final = 16
"""Tags on one tensor or in one search."""

FOUND: Final = 1024
"""Tensors that one search may return."""

INPUTS: Final = 1 << 14
"""Parameters of a plan, and as many buffers."""

METRICS: Final = 64
"""Numbers that a training reports beside the loss, and tensors that a batch has."""

VERSIONS: Final = 16
"""Protocol versions that one hello may offer."""

TRANSCRIPT_BYTES: Final = 4096
"""What evidence is about: keys, digests and a name."""

EVIDENCE_BYTES: Final = 1 << 17
"""Evidence with the certificates that came along."""

SECRET_BYTES: Final = 4096
"""One secret that is provisioned: a key, a password, a token."""

SEALED_BYTES: Final = SECRET_BYTES + 1280
"""The same, sealed: HPKE adds an encapsulated key (1120 bytes) and a tag (16)."""

KEY_BYTES: Final = 256
"""A member's public key (SubjectPublicKeyInfo, DER)."""

SIGNATURE_BYTES: Final = 128
"""A member's signature."""

MEMBERS: Final = 256
"""Members of a cohort, and owners that sign something of one round."""

ANSWER_BYTES: Final = 1 << 17
"""An owner's answer to a round."""

ELSEWHERE: Final = 16
"""Cohorts under other charters that an owner tells of when it answers a round."""

ROUND_BODY_BYTES: Final = 1 << 18
"""What members sign of a round."""

RECORD_BYTES: Final = 1 << 20
"""One record of a ledger."""

JOB_BYTES: Final = 1 << 26
"""A job, its plan and the model's constant tensors included."""

CHAIN_BYTES: Final = 1 << 28
"""The records in one message; longer chains travel in several."""
