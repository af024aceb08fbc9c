"""What the columns of a data set are, and whether a training takes them.

The element type of a column need not be that of the plan. This is the rule, for files and for tensors in memory, and it
is the only one:

* A float becomes a float64 or a float32, rounded where the column's are longer. Data is measured with fewer digits than
  a float32 has, and most programs write float64. A finite number too large for a float32 is refused when it comes up.
* An integer becomes a longer one, if that holds every value of the column's type: int32 becomes int64, uint8 int16.
* Nothing else is converted. An integer may be a category or a measurement, and only its owner knows which; what is
  written as a float is no label; half precision and shorter integers lose values.

No PyTorch is imported here, so that a node can tell what its data sets are without it. ``converted`` does what is said
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cloister.errors import DataSetError
from cloister.wire.tensors import TensorSpec

_FLOATS: Final = ("float16", "bfloat16", "float32", "float64")
_ROUNDED_TO: Final = ("float32", "float64")
_SIGNED: Final = ("int8", "int16", "int32", "int64")
_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")


class Column(NamedTuple):
    """One column of a data set: its name, and what one row of it is: ``float32[28, 28]``, or ``int64[]``."""

    name: str
    row: TensorSpec

    def __str__(self) -> str:
        return f"{self.name!r} ({self.row})"


def converts(found: str, wanted: str) -> bool:
    """Whether a column of the element type ``found`` is taken where a plan wants ``wanted``, which may be the same."""
    if found == wanted or (found in _FLOATS and wanted in _ROUNDED_TO):
        return True
    if found in _UNSIGNED and wanted in _SIGNED:
        return _UNSIGNED.index(found) < _SIGNED.index(wanted)
    return any(
        found in kind and wanted in kind and kind.index(found) < kind.index(wanted) for kind in (_SIGNED, _UNSIGNED)
    )


def check_schema(schema: Sequence[Column], *, expected: Sequence[Column]) -> None:
    """Whether a data set is what a training takes, before its first step. Columns are compared in their order; their
    names are the owner's to choose, and those of ``expected`` are the arguments of the plan. Where both have a name,
    it stands in the same place.

    Raises:
        DataSetError: another number of columns, an element type that is not converted or another shape of rows, or
            columns in each other's place. All faults at once.
    """
    faults = []
    if len(schema) != len(expected):
        faults.append(
            f"it has {len(schema)} columns ({', '.join(map(str, schema))}) "
            f"where {len(expected)} are expected ({', '.join(map(str, expected))})"
        )
    for column, wanted in zip(schema, expected, strict=False):
        if not converts(column.row.dtype, wanted.row.dtype):
            faults.append(
                f"column {column.name!r} holds {column.row.dtype} where {wanted} is expected: save it as"
                f" {wanted.row.dtype}"
            )
        if column.row.shape != wanted.row.shape:
            faults.append(f"a row of column {column.name!r} is {column.row} where {wanted} is expected")
        if column.name != wanted.name and any(other.name == wanted.name for other in schema):
            faults.append(
                f"column {column.name!r} stands where {wanted} is expected, which has another place: swap them"
            )
    if faults:
        raise DataSetError("the data set does not fit the training: " + "; ".join(faults))
