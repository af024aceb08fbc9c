"""Evidence: what a TEE says about itself, with the certificates that came along, in the form in which it travels."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

Tee = Literal["sgx", "tdx", "snp", "simulated"]
TEES: Final[tuple[Tee, ...]] = ("sgx", "tdx", "snp", "simulated")

REPORT_DATA_BYTES: Final = 64
"""What a TEE signs for the software in it: all four kinds take 64 bytes."""

QUOTE_BYTES: Final = 1 << 15
"""The longest quote or report that is looked at. Genuine ones have about 1 to 10 KB."""

_Certificate = Annotated[bytes, Meta(min_length=1, max_length=1 << 13)]


class Evidence(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A quote or report, and what vouches for its signer.

    ``quote``: an SGX or TDX quote (v3, v4, v5), an SEV-SNP attestation report, or a simulated report.
    ``endorsements``: for SEV-SNP the DER certificates that the host handed out with the report (VCEK or VLEK, ASK, ARK,
    as far as they came); empty otherwise, since DCAP quotes hold their own. They are as untrusted as the quote.
    """

    tee: Tee
    quote: Annotated[bytes, Meta(min_length=1, max_length=QUOTE_BYTES)]
    endorsements: Annotated[tuple[_Certificate, ...], Meta(max_length=8)] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(evidence: Evidence) -> bytes:
    """Evidence as it travels: a msgpack array of its fields."""
    return _ENCODER.encode(evidence)
