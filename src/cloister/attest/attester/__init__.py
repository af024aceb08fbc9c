"""Attesters: how this process gets evidence about itself from the TEE that it runs in. Reads devices and files.

A process loads the attester of the one TEE that it has: what the others would do is nothing that its reviewer reads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, Protocol

from cloister.attest.evidence import Evidence, Tee
from cloister.attest.transcript import Role
from cloister.errors import NoTeeError

DEVICE: Final = Path("/dev/attestation")
"""Where Gramine shows its TEE."""

TSM: Final = Path("/sys/kernel/config/tsm/report")
"""Where Linux (6.7 and later, with configfs mounted) shows its TEE."""


class Attester(Protocol):
    """Something that gets evidence about this process."""

    @property
    def tee(self) -> Tee:
        """Which kind of evidence."""

    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence for 64 bytes of ``report_data``; safe to call from several threads.

        Raises:
            NoTeeError: the TEE gives none.
        """


def find(
    tee: Literal["auto", "simulated"],
    *,
    role: Role = "aggregator",
    device: Path = DEVICE,
    tsm: Path = TSM,
    privilege: int | None = None,
) -> Attester:
    """The TEE of this process: with ``auto`` a real one, Gramine's first; with ``simulated`` never a real one.

    ``role``: what a simulated TEE says was started. ``privilege``: the VMPL (0 to 3) to ask an SEV-SNP guest's TEE for.

    Raises:
        NoTeeError: there is none, or it is not set up. A simulated one is never taken unasked.
    """
    if tee == "simulated":
        from cloister.attest.attester.simulated import SimulatedAttester

        return SimulatedAttester.start(role)
    if os.path.exists(device):
        from cloister.attest.attester.gramine import GramineAttester

        return GramineAttester.start(device)
    if os.path.exists(tsm):
        from cloister.attest.attester.tsm import TsmAttester

        return TsmAttester.start(tsm, privilege=privilege)
    raise NoTeeError(
        f"this process runs in no TEE: there is neither {device} (Gramine with SGX) nor {tsm} (a TDX or SEV-SNP guest"
        " with Linux 6.7 or later and configfs mounted). Start it inside one, or rehearse with `--tee simulated`, which"
        " proves nothing"
    )
