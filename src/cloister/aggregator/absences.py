"""The owners that are not in a round, and why: for the operator's log, and for those whose job it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cloister.aggregator.peers import ConnectedMembers
from cloister.aggregator.runs import Run
from cloister.charter.charter import Charter
from cloister.wire.limits import REASON_CHARS
from cloister.wire.rounds import Out
from cloister.wire.text import visible


class Absences:
    """Those of one round after another, by the owners' fingerprints. An owner's first reason is the one that counts."""

    def __init__(self, charter: Charter, *, peers: ConnectedMembers) -> None:
        self._names = {owner.key: owner.name for owner in charter.owners}
        self._peers = peers
        self._run: Run | None = None
        self._number = 0
        self._why: dict[str, str] = {}

    @property
    def why(self) -> Mapping[str, str]:
        """The reasons so far."""
        return MappingProxyType(self._why)

    def begin(self, number: int, *, run: Run) -> None:
        """Begins a round. The owners that are not there are out of it."""
        self._number, self._run, self._why = number, run, {}
        there = {peer.key for peer in self._peers.owners()}
        for key in sorted(self._names.keys() - there, key=self._names.__getitem__):
            self.note(key, "it is not connected")

    def note(self, key: str, why: str) -> None:
        """Notes that an owner is out, and tells the operator and the job's researchers."""
        if key in self._why or self._run is None:
            return
        text = self._why[key] = visible(why)[:REASON_CHARS]
        self._peers.note(f"round {self._number} is without {self._names[key]}: {text}")
        for peer in self._peers.present():
            if peer.key in self._run.researchers:
                self._peers.tell(peer, Out(round=self._number, owner=key, text=text))
