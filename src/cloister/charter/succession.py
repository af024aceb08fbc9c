"""From one charter to the next of the same name: forward only, and only with all owners of both."""

from __future__ import annotations

from collections.abc import Iterable

from cloister.charter.charter import Charter
from cloister.charter.names import shown
from cloister.charter.signatures import Signature, check_signed
from cloister.errors import CharterError


def check_successor(old: Charter, *, new: Charter, signatures: Iterable[Signature], own: str | None = None) -> None:
    """Checks that ``new`` may take the place of ``old``, accepted before; ``signatures`` are those of ``new``.

    The very same charter may. Another one needs a higher serial and the signatures of all owners of both; the next
    serial has to name the old charter's digest. Where serials in between were never seen here, the owners' signatures
    decide alone. An owner that leaves is an auditor in the charter by which it leaves, so that it can sign.

    Raises:
        CharterError: it may not; the message says why.
    """
    if new.name != old.name:
        raise CharterError(f"the charter {new.name!r} does not succeed {old.name!r}: a successor has the same name")
    if new.serial < old.serial:
        raise CharterError(
            f"serial {new.serial} of the charter {new.name!r} is older than serial {old.serial}, which was accepted"
            " before: an older charter does not come back"
        )
    if new.serial == old.serial and new.digest != old.digest:
        raise CharterError(
            f"another charter {new.name!r} with serial {new.serial} was accepted before, {old.digest.hex()}: this"
            f" one is {new.digest.hex()}; a change needs the next serial"
        )
    if new.serial == old.serial + 1 and new.supersedes != old.digest:
        raise CharterError(
            f"serial {new.serial} of the charter {new.name!r} supersedes another charter than the serial {old.serial}"
            f" that was accepted before, {old.digest.hex()}"
        )
    signatures = tuple(signatures)
    check_signed(new, signatures=signatures, own=own)
    signed = {signature.key for signature in signatures}  # all of them verified
    missing = sorted(shown(owner.name) for owner in old.owners if owner.key not in signed)
    if missing:
        raise CharterError(
            f"serial {new.serial} of the charter {new.name!r} lacks the signature of {', '.join(missing)}, who owned"
            f" data under serial {old.serial}: a successor needs all owners of both, one that leaves as an auditor"
        )
