"""What one session holds: tensors by id, and the memory behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from cloister.errors import MemoryLimitError, ObjectLimitError, OpRefusedError, UnknownObjectError, WorkerError
from cloister.tensor.geometry import Geometry


class Entry:
    """One object of a session.

    What a session holds in bytes is counted here: what several objects share counts once, and for as long as one of
    them lives. Its ``geometry`` is the tensor's own, down to the size of the memory: whoever makes an entry has looked.
    """

    __slots__ = ("_place", "_store", "geometry", "tensor")

    def __init__(
        self, store: Store, tensor: torch.Tensor, geometry: Geometry, memory: torch.UntypedStorage | None = None
    ) -> None:
        self.tensor = tensor
        self.geometry = geometry
        self._store = store
        self._place = place = (tensor.untyped_storage() if memory is None else memory)._cdata
        sharing = store.sharing
        if place in sharing:
            sharing[place] += 1
        else:
            sharing[place] = 1
            store.nbytes += geometry.storage_bytes

    def __del__(self) -> None:
        sharing = self._store.sharing
        if sharing[self._place] > 1:
            sharing[self._place] -= 1
        else:
            del sharing[self._place]
            self._store.nbytes -= self.geometry.storage_bytes

    def shares(self, other: Entry) -> bool:
        """Whether both lie in one piece of memory."""
        return bool(self._place == other._place)


class Lost:
    """Stands where an object would be whose operation failed."""

    __slots__ = ("kind", "text")

    def __init__(self, fault: WorkerError) -> None:
        # Not the exception itself: its traceback would keep the operation's tensors alive, uncounted.
        self.kind = type(fault)
        self.text = str(fault)


class Store:
    """A session's objects, within its limits: ``memory_bytes`` in bytes, ``objects`` in number."""

    def __init__(self, *, memory_bytes: int, objects: int) -> None:
        self.memory_bytes = memory_bytes
        self.limit = objects
        self.nbytes = 0
        self.sharing: dict[int, int] = {}
        """How many objects lie in each piece of memory, by PyTorch's address of it."""
        self.held: dict[int, Entry | Lost] = {}
        self.tags: dict[int, tuple[str, ...]] = {}
        """By the id under which the tagged object is held, also once the caller has freed that id."""
        self._tagged: dict[torch.Tensor, int] = {}  # that id; an object that was searched for has several
        self._let_go: set[int] = set()  # freed, and held for their tags alone

    def __len__(self) -> int:
        return len(self.held)

    def entry(self, id: int) -> Entry:
        """The object of this id.

        Raises:
            UnknownObjectError: none has it.
            WorkerError: the operation that would have made it failed, with this error.
        """
        entry = self.held.get(id)
        if type(entry) is Entry:
            return entry
        if type(entry) is Lost:
            raise entry.kind(entry.text)
        raise UnknownObjectError("this session holds no object of that id; it was freed, taken back, or never made")

    def check_room(self, *, nbytes: int, ids: Sequence[int] = ()) -> None:
        """Refuses what would not fit, before it is made; an id of 0 stands for an object that is not made.

        Raises:
            MemoryLimitError, ObjectLimitError: over the session's limits.
            OpRefusedError: an id that is in use, or named twice.
        """
        held = self.held
        fits = self.nbytes + nbytes <= self.memory_bytes
        if fits and len(ids) == 1 and ids[0] not in held and len(held) < self.limit:
            return
        if not fits:
            raise MemoryLimitError(
                f"this needs {nbytes} bytes and the session holds {self.nbytes} of the {self.memory_bytes} it may; "
                "free tensors (del), or ask the worker's owner for a higher limit"
            )
        new = 0
        for id in ids:
            if id:
                new += 1
                if id in held:
                    raise OpRefusedError("an object's id is never used twice")
        if new > 1 and len({id for id in ids if id}) < new:
            raise OpRefusedError("an object's id is never used twice")
        if len(self.held) + new > self.limit:
            raise ObjectLimitError(
                f"the session holds {len(self.held)} objects and may hold {self.limit}; free tensors (del), "
                "or ask the worker's owner for a higher limit"
            )

    def hold(self, id: int, tensor: torch.Tensor, geometry: Geometry) -> None:
        """Holds a tensor that is of this very geometry."""
        self.held[id] = Entry(self, tensor, geometry)

    def lose(self, ids: Iterable[int], fault: WorkerError) -> None:
        """Notes that these objects were never made."""
        for id in ids:
            if id and id not in self.held and len(self.held) < self.limit:
                self.held[id] = Lost(fault)

    def spoil(self, spoilt: Entry, fault: WorkerError) -> WorkerError:
        """Has an object, and all that lies in the same memory, be lost; returns the error, to be raised."""
        for id, entry in list(self.held.items()):
            if type(entry) is Entry and entry.shares(spoilt):
                if id in self.tags:
                    self.tag(id, ())
                if id in self.held:  # not one that only its tags held
                    self.held[id] = Lost(fault)
        return fault

    def free(self, ids: Iterable[int]) -> None:
        """Forgets these objects; unknown ones are passed over, since a failed operation may never have made them."""
        held, tags = self.held, self.tags
        for id in ids:
            if tags and id in tags:
                self._let_go.add(id)
            else:
                held.pop(id, None)

    def tag(self, id: int, tags: tuple[str, ...]) -> None:
        """Has an object carry these tags and no others; as long as it carries any, ``free`` does not forget it.

        Raises:
            UnknownObjectError, WorkerError: as ``entry``.
        """
        tensor = self.entry(id).tensor
        holder = self._tagged.setdefault(tensor, id)
        self.tags[holder] = tags
        if not tags:
            del self.tags[holder], self._tagged[tensor]
            if holder in self._let_go:
                self._let_go.remove(holder)
                del self.held[holder]

    def clear(self) -> None:
        """Forgets everything."""
        for each in (self.held, self.tags, self._tagged, self._let_go):
            each.clear()
