"""From one charter to the next of the same name: forward only, and by all owners of both.

An owner that leaves signs as an auditor of the charter by which it leaves. One that has another key *hands over* with
the one before it. Where neither can be, since the key is lost, a quorum of the old charter's owners decides, and no
node follows before a time that the old charter names (``lost_key_days``) has passed without a sign of that key: whoever
is listed under an owner's id is compared as that owner in cohorts, so nobody gets there unnoticed (docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from cloister.charter import keys
from cloister.charter.charter import Charter, Member
from cloister.charter.keys import PrivateKey
from cloister.charter.names import shown
from cloister.charter.signatures import Signature, check_signed
from cloister.errors import CharterError
from cloister.wire.peers import fingerprint

CONTEXT: Final = b"cloister charter hand-over 1\0"
"""Before the new charter's digest in what an old key signs."""
FORMAT: Final = "cloister charter hand-over 1"

Wait: TypeAlias = Callable[[Sequence[Member]], None]
"""Raises ``CharterError`` unless the owners whose keys are said to be lost have had time enough to object."""


def check_successor(
    old: Charter,
    *,
    new: Charter,
    signatures: Iterable[Signature],
    hand_overs: Iterable[Signature] = (),
    own: str | None = None,
    wait: Wait | None = None,
) -> None:
    """Checks that ``new`` may take the place of ``old``, accepted before; ``signatures`` are those of ``new``.

    The very same charter may. Another one needs a higher serial, the signatures of all its own owners, and a sign of
    each owner of ``old``: its signature, or its key's ``hand_overs``. The next serial has to name the old charter's
    digest; where serials in between were never seen here, the owners decide alone. An owner with another key keeps id
    and name.

    Args:
        hand_overs: by keys of owners of ``old``; those of other keys are of other successions, and count for nothing.
        own: the fingerprint of a member that has to have signed too.
        wait: asked last, where owners of ``old`` gave no sign and all else is as it has to be; None: there is no wait
            that is long enough.

    Raises:
        CharterError: it may not; the message says why.
    """
    _check_line(old, new)
    signatures = tuple(signatures)
    check_signed(new, signatures=signatures, own=own)
    names = {owner.id: owner.name for owner in old.owners}
    for owner in new.owners:
        if names.get(owner.id, owner.name) != owner.name:
            raise CharterError(
                f"serial {new.serial} of the charter {new.name!r} gives {shown(owner.name)} the id of"
                f" {shown(names[owner.id])}: an owner with another key keeps its name too"
            )
    heard = {signature.key for signature in signatures}  # all of them verified
    known = {owner.key for owner in old.owners}
    heard |= {_verified(each, old=old, new=new) for each in hand_overs if each.key in known}
    silent = [owner for owner in old.owners if owner.key not in heard]
    if silent:
        _check_silent(old, new, silent, wait)


def hand_over(old: Charter, *, new: Charter, key: PrivateKey) -> Signature:
    """Signs the successor with the key that an owner had under ``old``, and has no more under ``new``.

    Raises:
        CharterError: the key is no owner's of ``old``, or still a member's of ``new``, or of a kind that does not sign.
    """
    public_key = keys.public_bytes(key)
    signer = fingerprint(public_key)
    owner = old.member(signer)
    if owner is None or owner.role != "owner":
        raise CharterError(f"the key {signer} is no owner's of serial {old.serial} of the charter {old.name!r}")
    if new.member(signer) is not None:
        raise CharterError(
            f"the key {signer} is still {shown(owner.name)}'s in serial {new.serial} of the charter {new.name!r}: it"
            " signs that (`cloister charter sign`), and hands nothing over"
        )
    signature = keys.sign(CONTEXT + new.digest, key=key)
    return Signature(charter=new.digest, key=signer, public_key=public_key, signature=signature)


def _check_line(old: Charter, new: Charter) -> None:
    """The place in the line of charters of one name. Raises ``CharterError``."""
    if new.name != old.name:
        raise CharterError(f"the charter {new.name!r} does not succeed {old.name!r}: a successor has the same name")
    if new.serial < old.serial:
        raise CharterError(
            f"serial {new.serial} of the charter {new.name!r} is older than serial {old.serial}, which was accepted"
            f" before, {old.digest.hex()}: an older charter does not come back. Name the file of the newer one"
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


def _verified(signature: Signature, *, old: Charter, new: Charter) -> str:
    """The key of an owner of ``old`` that handed over to ``new``. Raises ``CharterError``: it did not."""
    name = next(shown(owner.name) for owner in old.owners if owner.key == signature.key)
    if signature.charter != new.digest or fingerprint(signature.public_key) != signature.key:
        raise CharterError(
            f"{name}'s hand-over is to another charter ({signature.charter.hex()}), or comes with another public key:"
            f" this one is {new.digest.hex()}"
        )
    try:
        keys.verify(signature.signature, message=CONTEXT + new.digest, public_key=signature.public_key)
    except CharterError:
        raise CharterError(f"{name}'s hand-over is not valid: it was not made with {signature.key}") from None
    return signature.key


def _check_silent(old: Charter, new: Charter, silent: Sequence[Member], wait: Wait | None) -> None:
    """Owners of ``old`` that gave no sign have lost their keys, or were not asked. Raises ``CharterError``."""
    names = ", ".join(sorted(shown(owner.name) for owner in silent))
    lacks = (
        f"serial {new.serial} of the charter {new.name!r} lacks the signature of {names}, who owned data under serial"
        f" {old.serial}: a successor needs all owners of both. One that leaves signs as an auditor, and one with"
        " another key hands over with the one before it (`cloister charter hand-over`)."
    )
    if any(new.member(owner.key) is not None for owner in silent):
        raise CharterError(f"{lacks} The successor lists that key as one that can sign")
    if not old.limits.lost_key_days:
        raise CharterError(f"{lacks} Serial {old.serial} names no lost_key_days, so nothing else will do")
    if len(old.owners) - len(silent) < old.quorum:
        raise CharterError(
            f"{lacks} For a key that is lost a quorum has to sign, {old.quorum} of the {len(old.owners)} owners of"
            f" serial {old.serial}"
        )
    if wait is None:
        raise CharterError(f"{lacks} For a key that is lost nodes wait {old.limits.lost_key_days} days")
    wait(silent)
