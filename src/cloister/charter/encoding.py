"""A charter as an aggregator reads it: the very bytes whose SHA-256 is the charter's digest (docs/charter.md).

They come from whoever runs the aggregator's machine, who is trusted with nothing. A charter has one encoding, and all
else is refused: another form of the same values, and values that no charter.toml could have, whatever its length.
"""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import chain
from typing import Any, Final, get_args, get_type_hints

import msgspec

from cloister.attest import cbor
from cloister.attest.reference import FMC_PRODUCT, MAX_AGE, Entry, SimulatedEntry, SnpEntry, faults_among
from cloister.charter import rules
from cloister.charter.charter import EPOCH, FORMAT, Charter
from cloister.charter.names import is_name
from cloister.errors import CharterError, CloisterError
from cloister.models import recipe as recipes
from cloister.wire.peers import check_fingerprint

ENCODED_BYTES: Final = 1 << 19
"""The longest encoding that is read: twice the longest charter.toml."""

_WHY_CHARS: Final = 200
_MOMENTS: Final = ("not_before", "not_after")
_AGE: Final = "max_collateral_age"
_TYPES: Final = get_type_hints(Charter, include_extras=True)
_ENTRIES: Final = {entry.tee: entry for entry in get_args(Entry)}
_UNFIT: Final = (
    CloisterError,
    msgspec.ValidationError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def decode(data: bytes) -> Charter:
    """The charter whose encoding ``data`` is.

    Raises:
        CharterError: it is no charter's.
    """
    if len(data) > ENCODED_BYTES:
        raise CharterError(f"an encoded charter of {len(data)} bytes is over the limit of {ENCODED_BYTES}")
    try:
        form, told = cbor.decode(data, what="the file")
        if form != FORMAT:
            raise CharterError(f'its format is not "{FORMAT}": this version reads no other')
        charter = _charter(_values(told))
        _check(charter)
        if charter.encoded != data:
            raise CharterError("it is not in its one deterministic form")
    except _UNFIT as fault:
        why = str(fault)[:_WHY_CHARS]  # which may quote what came
        why = why if why.isprintable() else ascii(why)
        raise CharterError(
            f"this is no encoded charter ({why}): `cloister charter encode` makes one of charter.toml"
        ) from None
    return charter


def _values(told: Any, key: object = None) -> Any:
    """Plain CBOR with its times; ``content`` the other way round."""
    match told:
        case dict():
            return {name: _values(value, name) for name, value in told.items()}
        case list():
            return [_values(value) for value in told]
        case int() if key in _MOMENTS:
            return EPOCH + timedelta(microseconds=told)
        case int() if key == _AGE:
            return timedelta(microseconds=told)
        case float() if not math.isfinite(told):
            raise CharterError("a number that is not finite")
        case float():
            return told + 0.0  # -0.0 becomes 0.0, and so is not what was encoded
        case _:
            return told


def _charter(values: dict[str, Any]) -> Charter:
    reference = tuple(_converted(entry, _ENTRIES[entry.pop("tee")]) for entry in values.pop("reference"))
    return Charter(reference=reference, **{name: _converted(value, _TYPES[name]) for name, value in values.items()})


def _converted(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind, builtin_types=(bytes, type(EPOCH), timedelta))


def _check(charter: Charter) -> None:
    """Rules between values, and the orders in which they have to stand, since a charter's lists have none."""
    lists = (charter.members, charter.reference, charter.limits.metrics, charter.jobs, charter.bases)
    named = [[each.name for each in some] for some in lists]
    if [sorted(names) for names in named] != named or charter.addresses != tuple(sorted(set(charter.addresses))):
        raise CharterError("a list that is not sorted")
    names = (charter.name, *named[0], *named[2], *named[3], *named[4])
    if not all(map(is_name, names)) or not all(map(rules.is_address, charter.addresses)):
        raise CharterError("a name or address that is none")
    for member in charter.members:
        check_fingerprint(member.key)
        check_fingerprint(member.id)
    for entry in charter.reference:
        _check_entry(entry)
    faults = chain(
        rules.line(charter.serial, charter.supersedes),
        rules.validity(charter.not_before, charter.not_after),
        rules.members(charter.members),
        rules.addresses(charter.addresses),
        rules.software(charter.reference),
        faults_among(charter.reference),
        rules.limits(charter.limits, owners=len(charter.owners)),
        rules.metrics(charter.limits.metrics),
        rules.jobs(charter.jobs, limits=charter.limits),
        rules.bases(charter.bases),
        recipes.faults(charter.recipe) if charter.recipe else (),
        rules.first_model(charter.recipe, limits=charter.limits),
    )
    for _, text in faults:
        raise CharterError(text)


def _check_entry(entry: Entry) -> None:
    match entry:
        case SimulatedEntry():
            return
        case SnpEntry(max_collateral_age=age):
            fits = entry.unsafe_no_revocation is (age is None)
            fits &= all((tcb.fmc is not None) == (product == FMC_PRODUCT) for product, tcb in entry.min_tcb.items())
        case _:
            age, fits = entry.tcb.max_collateral_age, True
    if not fits or not (age is None or timedelta() < age <= MAX_AGE):
        raise CharterError(f"the entry {entry.name!a} has values that do not go together")
