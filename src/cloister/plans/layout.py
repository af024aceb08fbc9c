"""Where a value has an entry for each row of the batch: dimensions as products, with the batch among the factors.

A dimension is a tuple of atoms, outermost first: whole numbers, and ``ROWS`` for the batch. ``(9, ROWS)`` is what a
view makes of 9 steps by b rows, ``(ROWS, 9)`` of b rows by 9 steps: as long, and not the same thing. A dimension of one
entry has no atom. Another ``Affine`` atom is a length that follows the batch without being known to count rows; it
stands alone in its dimension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from cloister.tensor.plan.program import Affine
from cloister.wire.limits import DIMENSIONS, SIZE

Extent: TypeAlias = int | Affine
Atom: TypeAlias = int | Affine
Dim: TypeAlias = tuple[Atom, ...]
Dims: TypeAlias = tuple[Dim, ...]

ROWS: Final = Affine(1, 0)


class UnclearError(Exception):
    """What a line does to the rows is not understood; caught where lines are followed, and told as a finding."""


def of_extents(extents: Sequence[Extent]) -> Dims:
    """The dimensions of a tensor with these extents in which nothing is known of the order of entries but that b of
    them are rows."""
    if len(extents) > DIMENSIONS:
        raise UnclearError("it has too many dimensions")
    return tuple(map(dim_of, extents))


def dim_of(extent: Extent) -> Dim:
    """The dimension of an extent."""
    if type(extent) is Affine and extent.per == 0:
        extent = extent.plus
    if type(extent) is int:
        if not 0 <= extent <= SIZE:
            raise UnclearError("it has a size that no tensor has")
        return () if extent == 1 else (extent,)
    return (extent,)


def size(dim: Dim) -> Extent:
    """The number of entries of a dimension."""
    count, symbol = 1, None
    for atom in dim:
        if type(atom) is int:
            count *= atom
        elif symbol is None:
            symbol = atom
        else:
            raise UnclearError("it has an entry for each two rows in one dimension")
    if count > SIZE:
        raise UnclearError("it has a size that no tensor has")
    return count if symbol is None else Affine(symbol.per * count, symbol.plus * count)  # type: ignore[union-attr]


def follows_batch(dim: Dim) -> bool:
    """Whether the dimension's length depends on the batch's."""
    return any(type(atom) is Affine for atom in dim)


def has_rows(dims: Dims) -> bool:
    """Whether any dimension's length depends on the batch's."""
    return any(map(follows_batch, dims))


def normal(atoms: Sequence[Atom]) -> Dim:
    """A dimension with whole numbers side by side made one."""
    found: list[Atom] = []
    for atom in atoms:
        if atom == 1:
            continue
        if found and type(atom) is int and type(found[-1]) is int:
            found[-1] *= atom
        else:
            found.append(atom)
    size(tuple(found))
    return tuple(found)


def unify(left: Dim, right: Dim) -> Dim:
    """The dimension of two that are taken entry by entry, one of which may be stretched."""
    if left == right or not right:
        return left
    if not left:
        return right
    if size(left) == size(right):  # one of them is of no order in particular: all its entries are alike
        if len(left) == 1 and left[0] != ROWS and type(left[0]) is Affine:
            return right
        if len(right) == 1 and right[0] != ROWS and type(right[0]) is Affine:
            return left
    raise UnclearError("it takes tensors together whose rows do not stand in line")


def broadcast(shapes: Sequence[Dims]) -> Dims:
    """The dimensions of tensors that are taken entry by entry."""
    rank = max((len(dims) for dims in shapes), default=0)
    found: list[Dim] = [()] * rank
    for dims in shapes:
        for at, dim in enumerate(dims, rank - len(dims)):
            found[at] = unify(found[at], dim)
    return tuple(found)


def reshape(dims: Dims, extents: Sequence[Extent]) -> Dims:
    """The same entries in other dimensions, of which one may be left to be found (-1).

    Raises:
        UnclearError: a dimension would hold parts of rows, or the entries do not fit.
    """
    if len(extents) > DIMENSIONS:
        raise UnclearError("it has too many dimensions")
    atoms = [atom for dim in dims for atom in dim]
    if 0 in atoms:
        raise UnclearError("it takes a tensor without entries apart")
    if -1 in extents:
        at = list(extents).index(-1)
        extents = [*extents[:at], _left_over(atoms, [*extents[:at], *extents[at + 1 :]]), *extents[at + 1 :]]
    left = deque(atoms)
    found = tuple(_take(left, extent) for extent in extents)
    if left:
        raise UnclearError("its entries do not fit")
    return found


def _left_over(atoms: Sequence[Atom], extents: Sequence[Extent]) -> Extent:
    whole, rest = size(normal(atoms)), 1
    for extent in extents:
        if type(extent) is Affine and type(whole) is Affine and extent.per and not (extent.plus or whole.plus):
            per, remainder = divmod(whole.per, extent.per)
            if remainder:
                raise UnclearError("its entries do not fit")
            whole = per
        elif type(extent) is int and extent > 0:
            rest *= extent
        else:
            raise UnclearError("its entries do not fit")
    if type(whole) is Affine:
        return Affine(whole.per // rest, whole.plus // rest)
    return whole // rest  # type: ignore[operator]


def _take(left: deque[Atom], extent: Extent) -> Dim:
    """Takes the first entries of ``left``, as many as a dimension of ``extent`` has."""
    if type(extent) is Affine and extent.per:
        return _take_rows(left, extent)
    want = extent.plus if type(extent) is Affine else extent
    if type(want) is not int or want < 1:
        raise UnclearError("its entries do not fit")
    return _take_whole(left, want)


def _take_whole(left: deque[Atom], want: int) -> Dim:
    found: list[Atom] = []
    while want != 1:
        head = left.popleft() if left else 1
        if type(head) is Affine and head != ROWS and not head.plus and not head.per % want:
            left.appendleft(Affine(head.per // want, 0))  # alike in all its entries, whatever their order
            return normal([*found, want])
        if type(head) is not int or head < 2:
            raise UnclearError("it takes the rows of the batch apart and puts them together otherwise")
        if not want % head:
            found.append(head)
            want //= head
        elif not head % want:
            found.append(want)
            left.appendleft(head // want)
            want = 1
        else:
            raise UnclearError("its entries do not fit")
    return normal(found)


def _take_rows(left: deque[Atom], extent: Affine) -> Dim:
    found: list[Atom] = []
    want = extent.per
    while left:
        head = left.popleft()
        if isinstance(head, Affine):
            if not found and head == extent:
                return (head,)
            if extent.plus or head.plus:
                break
            if head != ROWS and not found and head.per > want and not head.per % want:
                left.appendleft(head.per // want)
                return (extent,)  # as above
            if want % head.per:
                break
            rest = _take_whole(left, want // head.per)
            return normal([*found, head, *rest]) if head == ROWS else (extent,)
        if head < 1 or want % head:
            break
        found.append(head)
        want //= head
    raise UnclearError("it takes the rows of the batch apart and puts them together otherwise")
