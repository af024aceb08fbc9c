"""TCB versions: how new the firmware below an SEV-SNP guest is (AMD document 56860, "TCB_VERSION")."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcb:
    """One TCB version, component by component. ``fmc`` exists from Turin on."""

    bl: int
    tee: int
    snp: int
    ucode: int
    fmc: int | None = None
