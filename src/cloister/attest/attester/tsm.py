"""Intel TDX and AMD SEV-SNP guests, through Linux's configfs-tsm (Documentation/ABI/testing/configfs-tsm-report).

A directory that is made under the report folder is one request. The kernel counts the writes to it in ``generation``,
so that a count other than our own tells that somebody else wrote too, and that the answer may be to them. Binary files
are taken when they are closed, and a refusal at that moment goes nowhere (fs/configfs/file.c): the count shows that as
well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cloister.attest.attester.answers import check_answer, check_asked
from cloister.attest.attester.certificates import endorsements
from cloister.attest.attester.files import read, write
from cloister.attest.evidence import QUOTE_BYTES, Evidence, Tee
from cloister.errors import NoTeeError

PROVIDERS: Final[dict[bytes, Tee]] = {b"tdx_guest": "tdx", b"sev_guest": "snp"}
ATTEMPTS: Final = 4
"""How many directories are tried when others interfere."""

_TABLE_BYTES: Final = 1 << 16
_WORD_BYTES: Final = 64
_BUSY: Final = (errno.EBUSY, errno.EAGAIN, errno.EINTR)
_HINTS: Final = {
    errno.EACCES: "only root may ask it",
    errno.EPERM: "only root may ask it",
    errno.ENXIO: "no TEE answers it: this is no TDX or SEV-SNP guest, or tdx_guest or sev_guest is not loaded",
    errno.ENOENT: "configfs is not mounted, or the kernel has no tsm_report (Linux 6.7)",
}

_Answer = TypeVar("_Answer")


class _InterferenceError(Exception):
    """Somebody else wrote to the same directory, or the kernel was busy: the answer counts for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmAttester:
    """Asks the kernel for TDX quotes or SEV-SNP reports. ``start`` looks which."""

    tee: Tee
    reports: Path
    privilege: int | None = None

    @classmethod
    def start(cls, reports: Path, *, privilege: int | None = None) -> TsmAttester:
        """One for the guest that this process runs in. ``privilege``: the VMPL (0 to 3) to ask for, on SEV-SNP.

        Raises:
            NoTeeError: the kernel has no TEE to offer, or one that is not known here.
        """
        return cls(tee=_undisturbed(reports, _provider), reports=reports, privilege=privilege)

    def evidence(self, report_data: bytes) -> Evidence:
        """A quote or report for 64 bytes of ``report_data``, with the certificates that the host has for it.

        Raises:
            EvidenceError: ``report_data`` has another size.
            NoTeeError: the kernel gives none, or one that is cut off or for something else.
        """
        check_asked(report_data)
        return _undisturbed(self.reports, lambda entry: self._ask(entry, report_data))

    def _ask(self, entry: Path, report_data: bytes) -> Evidence:
        before = _generation(entry)
        writes = 1
        write(entry / "inblob", report_data)
        if self.privilege is not None:
            write(entry / "privlevel", b"%d" % self.privilege)
            writes += 1
        quote = read(entry / "outblob", limit=QUOTE_BYTES)
        table = _certificates(entry) if self.tee == "snp" else b""
        provider = _provider(entry)
        if _generation(entry) != before + writes:
            raise _InterferenceError
        if provider != self.tee:
            raise NoTeeError(f"{self.reports} spoke for {self.tee} at first and now for {provider}")
        check_answer(quote, tee=self.tee, report_data=report_data)
        vouching = endorsements(table, report=quote) if self.tee == "snp" else ()
        return Evidence(tee=self.tee, quote=quote, endorsements=vouching)


def _undisturbed(reports: Path, ask: Callable[[Path], _Answer]) -> _Answer:
    """What ``ask`` finds out with a directory of its own; with another one where somebody interfered."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(_InterferenceError), _explained(reports), _entry(reports) as entry:
            return ask(entry)
    raise NoTeeError(
        f"{reports}: {ATTEMPTS} requests were all disturbed by other writers, or the TEE was busy: look for what else"
        " uses it, and try again"
    )


@contextlib.contextmanager
def _entry(reports: Path) -> Iterator[Path]:
    """A directory of our own, gone afterwards."""
    entry = reports / f"cloister-{secrets.token_hex(16)}"
    entry.mkdir()
    try:
        yield entry
    finally:
        with contextlib.suppress(OSError):  # what matters has happened, and a fault of it must stay visible
            entry.rmdir()


@contextlib.contextmanager
def _explained(reports: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno in _BUSY:
            raise _InterferenceError from None
        hint = _HINTS.get(fault.errno or 0, "the TEE refused")
        if fault.errno == errno.ENOENT and os.path.isdir(reports):
            hint = "this TEE does not offer that file (privlevel and auxblob are SEV-SNP's)"
        raise NoTeeError(f"no evidence from {fault.filename or reports}: {fault.strerror}: {hint}") from None


def _generation(entry: Path) -> int:
    text = read(entry / "generation", limit=_WORD_BYTES).strip()
    if not text.isdigit():
        raise NoTeeError(f"{entry.parent} counts in no numbers: this is not configfs-tsm")
    return int(text)


def _provider(entry: Path) -> Tee:
    name = read(entry / "provider", limit=_WORD_BYTES).strip()
    if name not in PROVIDERS:
        raise NoTeeError(
            f"{entry.parent} speaks for {name.decode(errors='replace')!r}, which is not known here: tdx_guest and"
            " sev_guest are"
        )
    return PROVIDERS[name]


def _certificates(entry: Path) -> bytes:
    try:
        return read(entry / "auxblob", limit=_TABLE_BYTES)
    except FileNotFoundError:  # a host that hands out none
        return b""
