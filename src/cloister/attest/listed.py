"""Whether a reference lists the software that some evidence is of, told by the bytes of its quote or report.

This is for the instance itself, before anybody dials it: it authenticates nothing and knows no patch levels, which is
for whoever verifies (``cloister.attest.verifier``). It saves an operator from an aggregator that all members refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloister.attest.evidence import Evidence, Tee
from cloister.attest.reference import MEASURED, Reference
from cloister.errors import CharterError

_AT: Final[Mapping[Tee, Mapping[str, slice]]] = {
    "sgx": {"mr_enclave": slice(112, 144), "mr_signer": slice(176, 208)},  # Intel DCAP API, appendix A.4: quote 3
    "tdx": {"mr_td": slice(184, 232)},  # the same, appendix A.3: quotes 4 and, 6 bytes later, 5
    "snp": {"measurement": slice(0x90, 0xC0)},  # AMD 56860, table "ATTESTATION_REPORT"
    "simulated": {"measurement": slice(32, 80)},  # cloister.attest.simulated_report
}
"""Where a quote or report has what names the software."""


def check_listed(evidence: Evidence, *, reference: Reference) -> None:
    """Checks that some entry of the reference lists this software.

    Raises:
        CharterError: none does; the message holds what the evidence says.
    """
    later = 6 if evidence.tee == "tdx" and evidence.quote.startswith(b"\x05\x00") else 0
    found = {name: evidence.quote[at.start + later : at.stop + later] for name, at in _AT[evidence.tee].items()}
    listed = 0
    for entry in [each for each in reference if each.tee == evidence.tee]:
        accepted = {name: getattr(entry, name) for name in MEASURED[evidence.tee]}
        listed += all(values == "any" or found[name] in values for name, values in accepted.items())
    if listed < 1:
        told = ", ".join(f"{name} {value.hex()}" for name, value in found.items())
        raise CharterError(
            f"the charter does not list this software, so every member would refuse it: as a {evidence.tee} TEE it is"
            f" {told}. Start the version that the charter lists, or have the members sign one that lists this"
        )
