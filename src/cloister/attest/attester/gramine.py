"""SGX under Gramine, through its pseudo-files in ``/dev/attestation`` (Gramine documentation, "Attestation and Secret
Provisioning").

``user_report_data`` takes the 64 bytes and ``quote`` then answers for whatever was written last. Nothing ties the two
together, so one thread at a time does both. Other processes in the enclave have their own ``user_report_data``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final

from cloister.attest.attester.answers import check_answer, check_asked
from cloister.attest.attester.files import read, write
from cloister.attest.evidence import QUOTE_BYTES, Evidence, Tee
from cloister.errors import NoTeeError

_ONE_AT_A_TIME: Final = Lock()  # of the process: its user_report_data is one, however many attesters there are
_WORD_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class GramineAttester:
    """Asks Gramine for DCAP quotes. ``start`` looks whether it gives any."""

    device: Path
    tee: ClassVar[Tee] = "sgx"

    @classmethod
    def start(cls, device: Path) -> GramineAttester:
        """One for the enclave that this process runs in.

        Raises:
            NoTeeError: Gramine runs without SGX, or without DCAP.
        """
        try:
            kind = read(device / "attestation_type", limit=_WORD_BYTES).strip()
        except OSError as fault:
            raise NoTeeError(
                f"{device / 'attestation_type'}: {fault.strerror}. Gramine runs here without remote attestation: set"
                ' sgx.remote_attestation = "dcap" in the manifest and start it with gramine-sgx'
            ) from None
        if kind != b"dcap":
            raise NoTeeError(
                f'{device / "attestation_type"} says {kind.decode(errors="replace")!r} where "dcap" is needed: set'
                ' sgx.remote_attestation = "dcap" in the manifest'
            )
        return cls(device)

    def evidence(self, report_data: bytes) -> Evidence:
        """A quote (version 3) for 64 bytes of ``report_data``.

        Raises:
            EvidenceError: ``report_data`` has another size.
            NoTeeError: Gramine gives no quote, or one that is cut off or for something else.
        """
        check_asked(report_data)
        try:
            with _ONE_AT_A_TIME:
                write(self.device / "user_report_data", report_data)
                quote = read(self.device / "quote", limit=QUOTE_BYTES)
        except OSError as fault:
            raise NoTeeError(
                f"Gramine gives no quote: {fault.filename or self.device}: {fault.strerror}. Does the quoting service"
                ' (aesmd) run on this host, and is sgx.remote_attestation = "dcap" in the manifest?'
            ) from None
        check_answer(quote, tee=self.tee, report_data=report_data)
        return Evidence(tee=self.tee, quote=quote)
