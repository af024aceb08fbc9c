"""Attesters: how this process gets evidence about itself from the TEE that it runs in. Reads devices and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

from cloister.attest.attester.gramine import DEVICE, GramineAttester
from cloister.attest.attester.measure import inventory, measure
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.attester.tsm import TSM, TsmAttester
from cloister.attest.evidence import Evidence, Tee
from cloister.attest.transcript import Role
from cloister.errors import NoTeeError

__all__ = ["Attester", "GramineAttester", "SimulatedAttester", "TsmAttester", "find", "inventory", "measure"]


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
        return SimulatedAttester.start(role)
    if os.path.exists(device):
        return GramineAttester.start(device)
    if os.path.exists(tsm):
        return TsmAttester.start(tsm, privilege=privilege)
    raise NoTeeError(
        f"this process runs in no TEE: there is neither {device} (Gramine with SGX) nor {tsm} (a TDX or SEV-SNP guest"
        " with Linux 6.7 or later and configfs mounted). Start it inside one, or rehearse with `--tee simulated`, which"
        " proves nothing"
    )
