"""Where collateral comes from: a file, or a service that the user names. There is no default service.

A service for SGX and TDX speaks Intel's PCS API, version 4, as caching services (PCCS) do; one for SEV-SNP speaks AMD's
KDS interface. What they answer is signed by the makers, and verified when it is used: a service is trusted for being
there. Its answers are kept per platform and asked for again when they are older than ``max_age``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from cryptography import x509

from cloister import files
from cloister.attest.dcap.collateral import BUNDLE_BYTES, Collateral, DcapCollateral, parse_bundle
from cloister.attest.evidence import Evidence
from cloister.attest.snp.certificates import RevocationList
from cloister.errors import CollateralError, EvidenceError, NetworkError
from cloister.net.download import Document, check_url, get
from cloister.net.pccs import DcapPlatform, SnpPlatform, platform_of

_log: Final = logging.getLogger(__name__)

CollateralSource = Callable[[Evidence, datetime], Collateral | None]
"""The function that gives the collateral for some evidence, at a time."""


def no_collateral(evidence: Evidence, now: datetime) -> None:
    """The source of those who have none: enough for a simulated TEE only."""
    if evidence.tee in ("sgx", "tdx"):
        raise CollateralError(
            f"{evidence.tee} evidence cannot be judged without collateral: name a file or the URL of a PCCS"
        )


ANSWER_BYTES: Final = 1 << 18
"""The longest answer that is read from a service. Genuine ones have at most some 10 KB."""

MAX_AGE: Final = timedelta(days=1)
"""How old what is kept may be. Makers publish anew about once a month, and at once when a key was revoked."""

_IN_MEMORY: Final = 64
_STAMP: Final = re.compile(rb"([0-9T:+-]{25})\n")


def source(
    text: str | None, *, cache: Path | None = None, max_age: timedelta = MAX_AGE, within_s: float = 15.0
) -> CollateralSource:
    """Where collateral is taken from, by what the user wrote: a file, a service's URL, or nothing.

    ``cache``: the folder for what a service answered; None: the user's own (XDG_CACHE_HOME). ``within_s``: the time for
    all the questions about one platform, in seconds.

    What comes back raises ``CollateralError`` where there is no collateral or it is stale, partial, huge or broken,
    ``NetworkError`` where the service cannot be reached, and ``EvidenceError`` for evidence that names no platform.

    Raises:
        ConfigurationError: not a URL that can be asked.
    """
    if text is None:
        return no_collateral
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return Service(check_url(text), cache=cache or cache_folder(), max_age=max_age, within_s=within_s)
    return File(Path(text))


class File:
    """Collateral from a bundle, as ``cloister.attest.dcap.collateral`` writes it; read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, evidence: Evidence, now: datetime) -> Collateral | None:
        """What is in the file, whatever its dates."""
        try:
            return parse_bundle(files.read(self._path, limit=BUNDLE_BYTES))
        except OSError as fault:
            raise CollateralError(f"{self._path} cannot be read: {fault.strerror}; name a file, or a URL") from None
        except CollateralError as fault:
            raise CollateralError(f"{self._path}: {fault}") from None


class Kept(NamedTuple):
    """An answer, when it was fetched and until when it holds."""

    fetched: datetime
    expires: datetime
    collateral: Collateral

    def usable(self, now: datetime) -> bool:
        """Whether it holds. One from the future is not believed."""
        return self.fetched <= now < self.expires


class Service:
    """Collateral from a service, by way of a cache. May be used by several threads."""

    def __init__(self, url: str, *, cache: Path | None, max_age: timedelta, within_s: float) -> None:
        self._url = url
        self._cache = cache
        self._max_age = max_age
        self._within_s = within_s
        self._memory: dict[str, Kept] = {}
        self._lock = threading.Lock()

    def __call__(self, evidence: Evidence, now: datetime) -> Collateral | None:
        """Collateral for the platform that ``evidence`` names; None for a simulated one."""
        if evidence.tee == "simulated":
            return None
        platform = platform_of(evidence)
        name = hashlib.sha256(f"{self._url}\n{platform!r}".encode()).hexdigest()[:32]
        with self._lock:
            kept = self._memory.get(name) or self._read(name)
        if kept is not None and not kept.usable(now):
            kept = None
        if kept is not None and now - kept.fetched <= self._max_age:
            return kept.collateral
        try:
            fetched = self._fetch(platform, now)
        except (CollateralError, NetworkError) as fault:
            if kept is None:
                raise
            _log.warning(
                "using collateral that was fetched %s ago, since there is none newer: %s", _age(kept, now), fault
            )
            return kept.collateral
        with self._lock:
            self._keep(name, fetched)
        return fetched.collateral

    def _fetch(self, platform: DcapPlatform | SnpPlatform, now: datetime) -> Kept:
        deadline = monotonic() + self._within_s

        def ask(path: str) -> Document:
            left = deadline - monotonic()
            if left <= 0:
                raise CollateralError(f"{self._url} took more than {self._within_s:g} s to answer; try again later")
            return get(self._url + path, most_bytes=ANSWER_BYTES, within_s=left)

        try:
            collateral = parse_bundle(platform.fetch(ask).encode())  # checked as a whole, its size too
            until = expiry(collateral)
        except CollateralError as fault:
            where = "" if self._url in str(fault) else f"from {self._url}: "
            raise CollateralError(f"{where}{fault}") from None
        if until <= now:
            raise CollateralError(
                f"{self._url} gave collateral that expired at {until:%Y-%m-%d %H:%M} UTC, and it is"
                f" {now:%Y-%m-%d %H:%M}: the service has to refresh it, or this clock is wrong"
            )
        return Kept(now.astimezone(UTC).replace(microsecond=0), until, collateral)

    def _read(self, name: str) -> Kept | None:
        """What is kept on disk, if it is there and whole: a file that others may have written."""
        if self._cache is None:
            return None
        try:
            data = files.read(self._cache / name, limit=BUNDLE_BYTES + 64)
            stamp = _STAMP.match(data)
            if stamp is None:
                return None
            collateral = parse_bundle(data[stamp.end() :])
            return Kept(datetime.fromisoformat(stamp[1].decode()), expiry(collateral), collateral)
        except (OSError, ValueError, CollateralError):
            return None

    def _keep(self, name: str, kept: Kept) -> None:
        if len(self._memory) >= _IN_MEMORY:
            self._memory.clear()
        self._memory[name] = kept
        if self._cache is None:
            return
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self._cache)
            try:
                with open(descriptor, "wb") as file:
                    file.write(f"{kept.fetched.isoformat()}\n".encode() + kept.collateral.encode())
                os.replace(draft, self._cache / name)  # whoever reads finds all of it
            except BaseException:
                with suppress(OSError):
                    os.unlink(draft)
                raise
        except OSError as fault:
            _log.warning("cannot keep collateral in %s: %s", self._cache, fault.strerror)


def cache_folder() -> Path | None:
    """Where this user's programs keep what can be had again (XDG Base Directory Specification); None without a home."""
    with suppress(RuntimeError):
        named = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "cloister" / "collateral"
    return None


def expiry(collateral: Collateral) -> datetime:
    """Until when collateral holds: until the first part of it that its maker will have replaced.

    Raises:
        CollateralError: it does not say, or not in a form that can be read.
    """
    try:
        if isinstance(collateral, DcapCollateral):
            texts = (json.loads(text)["nextUpdate"] for text in (collateral.tcb_info, collateral.qe_identity))
            crls = (x509.load_der_x509_crl(crl).next_update_utc for crl in (collateral.root_ca_crl, collateral.pck_crl))
            moments = [*map(datetime.fromisoformat, texts), *crls]
        else:
            moments = [RevocationList.parse(collateral.crl).next_update] if collateral.crl else []
        return min(moment.astimezone(UTC) for moment in moments if moment is not None)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, EvidenceError):
        raise CollateralError("the collateral does not say until when it holds") from None


def _age(kept: Kept, now: datetime) -> str:
    hours, rest = divmod(int((now - kept.fetched).total_seconds()), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"
