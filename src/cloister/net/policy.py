"""The attestation policy: what an instance has to prove, and how a user's files become a policy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import cbor2

from cloister.attest import reference_toml
from cloister.attest.reference import Reference
from cloister.attest.transcript import Role
from cloister.attest.verifier import MAKERS, Roots
from cloister.charter import Charter
from cloister.files import read_text
from cloister.net.collateral import CollateralSource, source
from cloister.net.files import read_charter
from cloister.tables import TEXT_BYTES, Table, faulty, load


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, init=False)
class AttestationPolicy:
    """What an instance has to prove before anything is told to it.

    Args:
        charter: a charter, or the file that it is in.
        collateral: a function; or a file or the URL of a service (``cloister.net.collateral.source``); None: there is
            none, which is enough for a simulated TEE only.

    Raises:
        CharterError: the charter has faults, all of which are listed.
        ConfigurationError: a file that cannot be read, or a URL that cannot be asked.
    """

    charter: Charter
    role: Role
    reference: Reference | None
    """Acceptable software; None: what the charter names."""
    configuration: bytes | None
    """For a node: SHA-256 of the configuration that it has to run with (``configuration_digest``)."""
    accept_simulated: bool
    """Whether a simulated TEE will do, which proves nothing. The reference has to name it too."""
    collateral: CollateralSource
    """The function that gives the collateral for some evidence."""
    newest: tuple[int, bytes]
    """The newest ledger sequence and head that were seen: an older ledger is refused."""
    clock: Callable[[], datetime]
    """The verifier's own: an enclave's is not trusted."""
    unsafe_roots: Roots

    def __init__(
        self,
        *,
        charter: Charter | str | os.PathLike[str],
        role: Role = "aggregator",
        reference: Reference | None = None,
        configuration: bytes | None = None,
        accept_simulated: bool = False,
        collateral: CollateralSource | str | None = None,
        newest: tuple[int, bytes] = (0, b""),
        clock: Callable[[], datetime] = _now,
        unsafe_roots: Roots = MAKERS,
    ) -> None:
        vars(self).update(
            charter=charter if isinstance(charter, Charter) else read_charter(charter),
            role=role,
            reference=reference,
            configuration=configuration,
            accept_simulated=accept_simulated,
            collateral=source(collateral) if collateral is None or isinstance(collateral, str) else collateral,
            newest=newest,
            clock=clock,
            unsafe_roots=unsafe_roots,
        )


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """The reference in a file of its own: ``[[software]]`` tables, as in a charter.

    Raises:
        ConfigurationError: the file cannot be read, or has faults, all of which are listed.
    """
    faults: list[str] = []
    table = Table(load(read_text(path, limit=TEXT_BYTES), source=str(path)), faults=faults)
    reference = reference_toml.parse(table.tables("software"))
    table.finish()
    if not reference and not faults:
        faults.append("software: is missing; name the software that is acceptable, [[software]]")
    if faults:
        raise faulty(str(path), faults)
    return reference


def configuration_digest(text: str, *, source: str = "the configuration") -> bytes:
    """SHA-256 of what a node.toml says, 32 bytes.

    It is taken of the deterministic CBOR (RFC 8949, section 4.2.1) of its content: comments and layout do not matter.
    ``source`` is its name for messages.

    Raises:
        ConfigurationError: not TOML.
    """
    content = load(text, source=source)
    return hashlib.sha256(cbor2.dumps(["cloister node 1", _plain(content)], canonical=True)).digest()


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case datetime() | date() | time():
            return cbor2.CBORTag(0, value.isoformat())  # a date is not the text that it is written as
        case _:
            return value
