"""What Intel publishes about its platforms, as far as ``dcap-qvl`` leaves it to us: when it holds, and who signed it.

Source: Intel SGX and TDX Provisioning Certification Service API, version 4 (TCB info, enclave identity, CRLs).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID
from msgspec import Meta, Struct

from cloister.attest.dcap.collateral import DcapCollateral
from cloister.errors import CollateralError

UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, UserWarning)
"""What ``cryptography`` raises for certificates that are none; warnings too, where they are turned into errors."""

_ROOT_CRL: Final = "root's CRL"
_TCB_SIGNER: Final = "Intel SGX TCB Signing"
_CERTIFICATES: Final = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
    r"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*"
)

_Time = Annotated[datetime, Meta(tz=True)]
_Number = Annotated[int, Meta(ge=0)]


class _Dated(Struct, rename="camel"):
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: _Number


class _TcbInfo(_Dated, rename="camel"):
    pce_id: Annotated[str, Meta(pattern="^[0-9A-Fa-f]{4}$")]


_Document = TypeVar("_Document", bound=_Dated)


class Span(NamedTuple):
    """When one piece of collateral holds: from ``start`` on, before ``end``."""

    what: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Dates and numbers of one collateral. They are to be believed once ``dcap-qvl`` checked the signatures."""

    spans: tuple[Span, ...]
    """Of TCB info, QE identity, the root's CRL and the PCK CA's CRL."""
    eval_number: int
    """The lower of TCB info and QE identity."""
    pce_id: bytes
    """Which provisioning certification enclave the TCB info is about; 2 bytes."""

    @classmethod
    def read(cls, collateral: DcapCollateral) -> Published:
        """Raises ``CollateralError`` if a part cannot be read, or is signed by a key that is not for signing it."""
        tcb_info = _decode("TCB info", collateral.tcb_info, _TcbInfo)
        qe_identity = _decode("QE identity", collateral.qe_identity, _Dated)
        for what, chain in (
            ("TCB info", collateral.tcb_info_issuer_chain),
            ("QE identity", collateral.qe_identity_issuer_chain),
        ):
            _check_signer(what, chain)
        return cls(
            spans=(
                Span("TCB info", tcb_info.issue_date, tcb_info.next_update),
                Span("QE identity", qe_identity.issue_date, qe_identity.next_update),
                _crl_span(_ROOT_CRL, collateral.root_ca_crl),
                _crl_span("PCK CA's CRL", collateral.pck_crl),
            ),
            eval_number=min(tcb_info.tcb_evaluation_data_number, qe_identity.tcb_evaluation_data_number),
            pce_id=bytes.fromhex(tcb_info.pce_id),
        )

    @property
    def issued(self) -> datetime:
        """When the oldest of the parts was issued that Intel makes anew about once a month.

        The root's CRL is not one of them: it comes about once a year, so an age that it has to keep would say nothing
        about the others. Its own end bounds it.
        """
        return min(span.start for span in self.spans if span.what != _ROOT_CRL)

    @property
    def expires(self) -> datetime:
        """When the first part runs out."""
        return min(span.end for span in self.spans)

    def check_time(self, now: datetime) -> None:
        """Pass if all parts hold at ``now``. Raises ``CollateralError``, naming each part that does not."""
        faults = list(self._faults(now))
        if faults:
            raise CollateralError(f"Intel's collateral cannot be used at {now:%Y-%m-%d %H:%M} UTC: {'; '.join(faults)}")

    def _faults(self, now: datetime) -> Iterator[str]:
        for what, start, end in self.spans:
            if now < start:
                yield f"the {what} is not valid before {start:%Y-%m-%d %H:%M} (is the clock right?)"
            elif now >= end:  # as dcap-qvl has it for CRLs
                yield f"the {what} expired on {end:%Y-%m-%d %H:%M}: fetch it again"


def signing_chain(what: str, chain: str) -> list[x509.Certificate]:
    """The signer's certificate, then the root's. Raises ``CollateralError`` if the PEM holds anything else."""
    # Strict, so that dcap-qvl's idea of which certificate comes first cannot be another than ours.
    if not _CERTIFICATES.fullmatch(chain):
        raise CollateralError(f"the {what}'s issuer chain is not two certificates in PEM")
    try:
        return x509.load_pem_x509_certificates(chain.encode())
    except UNREADABLE:
        raise CollateralError(f"the {what}'s issuer chain cannot be read") from None


def _check_signer(what: str, chain: str) -> None:
    """dcap-qvl takes a signature by any key that Intel certified, a platform's own PCK among them."""
    try:
        names = signing_chain(what, chain)[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        raise CollateralError(f"the {what}'s issuer chain cannot be read") from None
    if [name.value for name in names] != [_TCB_SIGNER]:
        raise CollateralError(f"the {what} is not signed by {_TCB_SIGNER}")


def _decode(what: str, text: str, kind: type[_Document]) -> _Document:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise CollateralError(f"the {what} in the collateral cannot be read") from None


def _crl_span(what: str, data: bytes) -> Span:
    try:
        crl = x509.load_der_x509_crl(data)
        start, end = crl.last_update_utc, crl.next_update_utc
    except UNREADABLE:
        raise CollateralError(f"the {what} cannot be read") from None
    if end is None:
        raise CollateralError(f"the {what} does not say when the next one comes")
    return Span(what, start, end)
