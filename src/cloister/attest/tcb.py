"""TCB versions: how new the firmware below an SEV-SNP guest is (AMD document 56860, "TCB_VERSION")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

U8: TypeAlias = Annotated[int, Meta(ge=0, le=0xFF)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTcb:
    """One TCB version, component by component. ``fmc`` exists from Turin on."""

    bl: U8
    tee: U8
    snp: U8
    ucode: U8
    fmc: U8 | None = None
