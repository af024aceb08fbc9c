"""How an aggregator comes to be from its charter: what is refused before anything listens, and where it listens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cloister.attest.attester import find
from cloister.attest.evidence import REPORT_DATA_BYTES
from cloister.attest.listed import check_listed
from cloister.charter.charter import Charter, check_valid
from cloister.charter.encoding import ENCODED_BYTES, decode
from cloister.enclave.server import Aggregator
from cloister.errors import CharterError
from cloister.files import read, read_text
from cloister.ledger.records import COLLATERAL_BYTES
from cloister.net.proving import Instance
from cloister.wire.peers import Address, parse_address


def read_charter(path: Path) -> Charter:
    """The charter whose encoding a file is: what its members have signed, byte for byte, and no other form of it.

    Raises:
        CharterError: it is no encoded charter, or cannot be read.
    """
    try:
        return decode(read(path, limit=ENCODED_BYTES))
    except OSError as fault:
        raise CharterError(f"{path} cannot be read: {fault.strerror}") from None
    except CharterError as fault:
        raise CharterError(f"{path}: {fault}") from None


def instance_of(charter: Charter, *, tee: Literal["auto", "simulated"], name: str | None) -> Instance:
    """A new instance under a charter, in the TEE of this process.

    ``name``: which of the charter's addresses it has; None where there is one.

    Raises:
        CharterError: the charter is not valid now, or it has no such address, or does not list this software.
        NoTeeError: there is no TEE, or it is not set up, or gives no evidence.
    """
    check_valid(charter, now=datetime.now(UTC))
    address = _address(charter, name)
    attester = find(tee, role="aggregator")
    check_listed(attester.evidence(bytes(REPORT_DATA_BYTES)), reference=charter.reference)
    return Instance(role="aggregator", attester=attester, charter=charter.digest, name=address)


def check_signatures(charter: Charter, *, folder: Path) -> None:
    """Checks that all owners have signed a charter. ``folder``: where their signatures are, ``*.sig``.

    Raises:
        CharterError: one is missing, or cannot stand.
    """
    from cloister.charter.signatures import check_signed
    from cloister.net.signatures import read_signatures

    try:
        check_signed(charter, signatures=read_signatures(folder))
    except CharterError as fault:
        raise CharterError(f"{fault}; members refuse it before. Their signatures are looked for in {folder}") from None


def where(instance: Instance, listen: str | None) -> Address:
    """Where it listens: as it was told, or everywhere at its address's port.

    Raises:
        ConfigurationError: ``listen`` is no address.
    """
    return parse_address(listen or f"0.0.0.0:{parse_address(instance.name).port}")


def aggregator_of(charter: Charter, *, instance: Instance, listen: str | None, collateral: Path | None) -> Aggregator:
    """The aggregator of a charter that is closed to interactive use, listening.

    ``collateral``: a file for the ledger, so that auditors need no other source.

    Raises:
        CharterError: the charter is interactive.
        ConfigurationError: it cannot listen there, or the file cannot be read. CollateralError: it holds no collateral.
    """
    if charter.interactive:
        raise CharterError("the charter is interactive: its aggregator is a node (`cloister aggregator serve`)")
    kept = None if collateral is None else _read_collateral(collateral)
    return Aggregator(instance, charter=charter, listen=where(instance, listen), collateral=kept)


def _address(charter: Charter, name: str | None) -> str:
    addresses = charter.addresses
    if name is None and len(addresses) == 1:
        return addresses[0]
    if name is None or name not in addresses:
        listed = ", ".join(addresses)
        wrong = "" if name is None else f"{name} is no address of the charter; "
        raise CharterError(f"{wrong}say which address of the charter this aggregator has, with --name: {listed}")
    return name


def _read_collateral(file: Path) -> bytes:
    from cloister.attest.dcap.collateral import parse_bundle

    data = read_text(file, limit=COLLATERAL_BYTES).encode()
    parse_bundle(data)  # better now than by an auditor
    return data
