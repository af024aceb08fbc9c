"""Who is who in the cohorts of all charters: an id stays with one owner, whatever key it has.

Cohorts are compared by ids (``cloister.node.study.countersigner``). If anybody could be listed under an id that another
had, the same ids would be other organisations, and the difference of two means would be theirs.
"""

from __future__ import annotations

import msgspec

from cloister.charter import Charter
from cloister.charter.names import shown
from cloister.errors import CharterError
from cloister.node.study.entries import Listed, Named
from cloister.node.study.journal import Records


def meet(charter: Charter, *, own: str, records: Records) -> None:
    """Holds the ids of a charter's owners against those of all charters before it, and remembers them.

    A charter's own line hands an id on to another key of the same name: all owners sign for that
    (``cloister.charter.signatures.check_successor``). No other charter does.

    Args:
        own: the name of this node's member.

    Raises:
        CharterError: it calls an owner otherwise than a charter before it.
        RecordsError: it cannot be written down.
    """
    with records.together:
        _check_own(charter, own, records)
        new = []
        for owner in charter.owners:
            entry = Listed(charter.digest, charter.name, owner.name, owner.id, owner.key)
            known = records.listed(id=owner.id, key=owner.key)
            pairs = {(each.id, each.key) for each in known}
            in_line = any((each.study, each.name, each.id) == (charter.name, owner.name, owner.id) for each in known)
            if any(key == owner.key and of != owner.id for of, key in pairs):
                raise CharterError(
                    f"the charter {charter.name!r} lists the key of {shown(owner.name)} under another id than a charter"
                    " before it, and cohorts could not be compared: write the id beside the key that it had there"
                )
            if pairs and (owner.id, owner.key) not in pairs and not in_line:
                raise CharterError(
                    f"the charter {charter.name!r} lists {shown(owner.name)} under an id that is here the id of another"
                    " key: only the successor of a charter hands one on, to the same name. If that is the same"
                    " organisation, let this node first work under that successor; if not, take the id out"
                )
            if all(msgspec.structs.replace(each, charter=charter.digest) != entry for each in known):
                new.append(entry)
        if new:
            records.list_owners(new)


def _check_own(charter: Charter, own: str, records: Records) -> None:
    """Makes sure that cohorts under all charters call this organisation by one id."""
    listed = next(member.id for member in charter.members if member.name == own)
    known = records.own_id
    if known is not None and known != listed:
        raise CharterError(
            f"the charter {charter.name!r} lists this node's organisation under the id {listed}, and an earlier"
            f' one did so under {known}: write id = "{known}" beside its key, so that cohorts can be compared'
        )
    if known is None:
        records.name(Named(charter.digest, listed))
