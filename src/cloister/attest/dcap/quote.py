"""The layout of SGX and TDX quotes, read strictly: every byte has a meaning, and none is left over.

Source: Intel SGX ECDSA QuoteLibReference DCAP API, appendix "Quote format" (version 3), and Intel TDX DCAP Quoting
Library API, appendix A.3 (versions 4 and 5). ``dcap-qvl`` reads the same bytes again; it is laxer, and takes quotes
with anything behind them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cloister.attest.evidence import QUOTE_BYTES, REPORT_DATA_BYTES
from cloister.errors import EvidenceError, NotGenuineError

HEADER_BYTES: Final = 48
SGX_BODY_BYTES: Final = 384

_HEADER: Final = struct.Struct("<HHI")
"""version, attestation key type, TEE type; QE and PCE SVN, QE vendor and user data follow."""
_ECDSA_P256: Final = 2
_TD_BODY_BYTES: Final = {2: 584, 3: 648, 4: 885}
"""By the body type of version 5: TD report 1.0, 1.5 and 1.5 extended. Version 4 holds the first."""
_REPORT_DATA: Final = {"sgx": 320, "tdx": 520}
"""Where it lies in the body; what a newer TD report adds comes behind it."""
_QE_REPORT: Final = 6
_PCK_CHAIN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The parts of a quote that are needed here. Nothing in it is checked yet."""

    tee: Literal["sgx", "tdx"]
    signed: bytes
    """Header and report body: what the attestation key signed."""
    report_data: bytes
    """The 64 bytes that the software in the TEE chose."""
    signature: bytes
    """ECDSA, r and s, 32 bytes each."""
    attestation_key: bytes
    """P-256, x and y, 32 bytes each. The QE report holds its hash."""
    pck_chain: bytes
    """PEM: the PCK certificate, its CA's, and the root's."""

    @classmethod
    def parse(cls, data: bytes) -> Quote:
        """The quote in ``data``: SGX version 3, TDX version 4 or 5, with its certificates inside.

        Raises:
            EvidenceError: it is none, is longer than its parts (or than 32 KiB), or of a form that is not read here.
        """
        if len(data) > QUOTE_BYTES:
            raise EvidenceError(f"a quote of {len(data)} bytes is over the limit of {QUOTE_BYTES}")
        rest = _Bytes(data)
        tee, version = _header(rest.take(HEADER_BYTES))
        body_bytes = SGX_BODY_BYTES if tee == "sgx" else _td_body_bytes(rest, version)
        body = rest.take(body_bytes)
        report_data = body[_REPORT_DATA[tee] :][:REPORT_DATA_BYTES]
        signed = data[: rest.at]
        auth = rest.block("<I")
        rest.finish()
        signature, attestation_key = auth.take(64), auth.take(64)
        if version > 3:
            auth = auth.certification(_QE_REPORT)
        auth.take(SGX_BODY_BYTES + 64)  # the QE's report, and its signature by the PCK
        auth.block("<H")  # what the QE wants to be authenticated beside the key
        chain = auth.certification(_PCK_CHAIN)
        return cls(
            tee=tee,
            signed=signed,
            report_data=report_data,
            signature=signature,
            attestation_key=attestation_key,
            pck_chain=chain.data,
        )

    def check_signature(self) -> None:
        """Pass if the attestation key signed header and body. Whose the key is, is another question.

        Raises:
            NotGenuineError: it did not.
        """
        r, s = (int.from_bytes(self.signature[at : at + 32]) for at in (0, 32))
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + self.attestation_key)
            key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            raise NotGenuineError("the quote is not signed by its attestation key: it was changed") from None


def _header(header: bytes) -> tuple[Literal["sgx", "tdx"], int]:
    version, key_type, tee_type = _HEADER.unpack_from(header)
    if key_type != _ECDSA_P256:
        raise EvidenceError(f"a quote signed with a key of type {key_type}; only ECDSA on P-256 (2) is read here")
    match version, tee_type:
        case 3, 0x00:
            return "sgx", version
        case 4 | 5, 0x81:
            return "tdx", version
    raise EvidenceError(f"no quote that is read here: version {version}, TEE type {tee_type:#x}")


def _td_body_bytes(rest: _Bytes, version: int) -> int:
    kind, size = (2, _TD_BODY_BYTES[2]) if version == 4 else struct.unpack("<HI", rest.take(6))
    if _TD_BODY_BYTES.get(kind) != size:
        raise EvidenceError(f"a quote with a body of type {kind} and {size} bytes, which is none of a trust domain")
    return int(size)


class _Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise EvidenceError("a quote that ends in the middle")
        self.at += count
        return taken

    def block(self, length: Literal["<H", "<I"]) -> _Bytes:
        (count,) = struct.unpack(length, self.take(struct.calcsize(length)))
        return _Bytes(self.take(count))

    def certification(self, kind: int) -> _Bytes:
        """The last part: a type, a length, and what vouches for the part before."""
        (found,) = struct.unpack("<H", self.take(2))
        if found != kind:
            raise EvidenceError(f"a quote with certification data of type {found} where type {kind} belongs")
        data = self.block("<I")
        self.finish()
        return data

    def finish(self) -> None:
        if self.at != len(self.data):
            raise EvidenceError(f"a quote with {len(self.data) - self.at} bytes behind its end")
