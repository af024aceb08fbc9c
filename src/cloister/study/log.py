"""The rounds that a chain has, a line for each: for whoever has the charter, without a connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloister.charter import Charter
from cloister.errors import ConfigurationError, LedgerError
from cloister.files import lines
from cloister.ledger.chain import Ledger, Receipt
from cloister.ledger.jsonl import LINE_BYTES, read_lines, written
from cloister.wire.text import visible

ROUNDS: Final = ".rounds"
"""Ends the name of a researcher's folder, unless another one is named: a study file, which may lie beside it, ends in
.study."""
CHAIN: Final = "chain.jsonl"


def read_records(file: Path) -> Iterator[bytes]:
    """The records in a file, which may be being written; none if there is no file.

    Raises:
        ConfigurationError: it cannot be read. LedgerError: a line of it holds no record.
    """
    return read_lines(_whole_lines(file))


def rounds_of(path: Path, *, charter: Charter) -> Iterator[str]:
    """The rounds in a chain, or in a researcher's folder, once all its records are verified; not the evidence of its
    instances, which takes an audit.

    Raises:
        ConfigurationError: there is none, or it cannot be read. LedgerError: it is no chain of this charter.
    """
    file = path / CHAIN if path.is_dir() else path
    if not file.exists():
        raise ConfigurationError(
            f"{file} does not exist: name a chain of receipts, or the folder of a script that has called Study.fit and"
            " has seen a round released"
        )
    try:
        ledger = Ledger.from_records(charter, read_records(file))
    except LedgerError as fault:
        raise LedgerError(f"{file}, {fault}; name a chain of this charter's") from None
    names = {member.key: member.name for member in charter.members}
    last = 0
    for receipt in ledger.receipts:
        number = receipt.cohort.round
        if number > last + 1:
            yield f"{_numbers(last + 1, number - 1)}  void"
        yield _line(receipt, names)
        last = number
    yield f"{ledger.released} of the charter's {charter.limits.rounds} rounds are released"


def _numbers(first: int, last: int) -> str:
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _line(receipt: Receipt, names: dict[str, str]) -> str:
    cohort, record = receipt.cohort, receipt.record
    owners = ", ".join(sorted(names[share.member] for share in cohort.shares))
    metrics = "".join(f"  {visible(name)} {value:.4g}" for name, value in sorted(record.metrics.items()))
    committed = ", ".join(sorted(names[signature.member] for signature in record.commits))
    at = written(record.time)
    return f"round {cohort.round}  {at}  {visible(cohort.name)}  {owners}{metrics}  committed by {committed}"


def _whole_lines(file: Path) -> Iterator[bytes]:
    try:
        for line in lines(file, limit=LINE_BYTES):
            if not line.endswith(b"\n") and len(line) <= LINE_BYTES:
                return  # it was being written
            yield line
    except FileNotFoundError:
        return
    except OSError as fault:
        raise ConfigurationError(f"{file} cannot be read: {fault.strerror}") from None
