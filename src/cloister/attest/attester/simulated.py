"""The simulated TEE: it measures this process and signs with a key that everyone has. It proves nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final

from cloister import files
from cloister.attest.attester.measure import measure
from cloister.attest.evidence import Evidence, Tee
from cloister.attest.simulated_report import make

SVN: Final = 1
"""The security version of this software, as a simulated report states it."""

MACHINE_IDS: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/random/boot_id")
"""What names this machine, best first: the last is new at every boot."""

_ID_CHARACTERS: Final = 32
_ID_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAttester:
    """Makes simulated reports of what it was told runs here. ``start`` measures it."""

    tee: ClassVar[Tee] = "simulated"
    measurement: bytes
    platform: bytes
    svn: int = SVN
    debug: bool = False

    @classmethod
    def start(cls, role: str) -> SimulatedAttester:
        """One that tells what runs in this process as ``role``, measured now and never again.

        Raises:
            NoTeeError: what runs cannot be read.
        """
        return cls(measurement=measure(role), platform=platform())

    def evidence(self, report_data: bytes) -> Evidence:
        """A simulated report for 64 bytes of ``report_data``.

        Raises:
            EvidenceError: ``report_data`` has another size.
        """
        report = make(report_data, measurement=self.measurement, platform=self.platform, svn=self.svn, debug=self.debug)
        return Evidence(tee=self.tee, quote=report)


def platform(paths: tuple[str, ...] = MACHINE_IDS) -> bytes:
    """32 bytes that name this machine: a hash, since machine-id(5) wants the id itself kept from strangers.

    Where no file of ``paths`` holds an id, the same value on every such machine.
    """
    return hashlib.sha256(b"cloister simulated platform 1\0" + _machine_id(paths)).digest()


def _machine_id(paths: tuple[str, ...]) -> bytes:
    for path in paths:
        try:
            text = files.read(path, limit=_ID_BYTES).strip()
        except OSError:
            continue
        if len(text) >= _ID_CHARACTERS:  # "uninitialized" is no id: machine-id(5)
            return text
    return b""
