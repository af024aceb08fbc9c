"""The owners that are not in a round, and why: for the operator's log, and for those whose job it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.charter.charter import Charter
from cloister.wire.limits import REASON_CHARS
from cloister.wire.rounds import Out
from cloister.wire.text import visible


def reason(text: str) -> str:
    """A reason that may be an owner's words: one line of a bounded length, fit for a terminal."""
    return visible(text)[:REASON_CHARS]


class Absences:
    """Those of one round after another, by the owners' fingerprints. An owner's first reason is the one that counts."""

    def __init__(self, charter: Charter, *, peers: ConnectedMembers) -> None:
        self._names = {owner.key: owner.name for owner in charter.owners}
        self._peers = peers
        self._researchers: Collection[str] = ()
        self._number = 0
        self._why: dict[str, str] = {}

    @property
    def why(self) -> Mapping[str, str]:
        """The reasons so far."""
        return MappingProxyType(self._why)

    def clear(self) -> None:
        """Forgets the last round."""
        self._number, self._researchers, self._why = 0, (), {}

    def begin(self, number: int, *, researchers: Collection[str]) -> None:
        """Begins a round, of a job of these ``researchers``, who may come and go. The owners that are not there are out
        of it."""
        self._number, self._researchers, self._why = number, researchers, {}
        there = {peer.key for peer in self._peers.owners()}
        away = sorted(self._names.keys() - there, key=self._names.__getitem__)
        self.note(dict.fromkeys(away, "it was not there when the round began"))

    def note(self, why: Mapping[str, str]) -> None:
        """Notes that owners are out, by fingerprint, and tells the operator and the job's researchers."""
        new = {key: reason(text) for key, text in why.items() if key not in self._why}
        if not self._number or not new:
            return
        self._why |= new
        for key, text in new.items():
            self._peers.note(f"round {self._number} is without {self._names[key]}: {text}")
        for peer in self._peers.present():
            if peer.key in self._researchers:
                self._peers.tell(peer, Out(round=self._number, why=new))

    def tell(self, peer: ConnectedMember) -> None:
        """Tells a researcher that comes while a round is under way who is out of it."""
        if self._why:
            self._peers.tell(peer, Out(round=self._number, why=dict(self._why)))
