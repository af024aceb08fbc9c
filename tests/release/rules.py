"""Release in two phases, as rules that can be run: what an owner remembers, what it signs, and what must never be.

All members of a cohort **consent** to it before any owner is asked to **commit** it; with the consents of all and the
commits of a quorum it is released. An owner that goes on to a later round **answers** it, and says in that answer what
it has committed that may still be released. So many answers that do not list a cohort make it **void**: from then on it
costs no budget and is in nobody's way.

What was signed can be shown to anyone at any time, so a state is what the honest owners remember and nothing else: a
message that was lost is one that is not shown, and an owner that is gone is one that does nothing more. Owners that lie
(``Setting.liars``) sign whatever serves the adversary, and have no state. Sets of cohorts are bits, by their places on
the menu.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, NamedTuple

START: Final = -1
"""The head of a ledger without a release; the model that the charter begins with."""

RULES: Final = frozenset(
    {
        "consents come first",  # nobody commits what not all members have consented to
        "one cohort a round",  # an owner commits
        "no way back",  # what is older than the round that an owner has come to is not signed
        "far apart",  # an owner commits nothing near to what it has committed on that model
        "far across charters",  # an owner consents to nothing near to what it consented to under another charter
        "nothing void",  # is signed
        "answers list commits",
        "owners remember",  # what they committed, whatever happens to them
        "later answers",  # count against a cohort, and no others
        "answers of all models",  # count: a list is of all models under the charter, whichever is the newest
        "known heads",  # an answer counts for those who have the ledger that it names
        "not what is released",  # in a judge's own ledger is void to it
        "whole entries",  # are compared: round, digest and members
        "enough answers",  # dropped: one fewer makes a cohort void
        "a quorum commits",  # dropped: one fewer
        "all members consent",  # to what is released
    }
)

SHOWN_HEADS: Final = RULES - {"known heads"} | {"heads that are shown"}
"""Another way to judge answers: by the ledger that they name, which is shown with them and need not be one's own."""


class Charter(NamedTuple):
    """Who the owners are, a letter for each, and how many a release combines at least."""

    owners: str
    floor: int

    @property
    def quorum(self) -> int:
        return (len(self.owners) + self.floor) // 2

    @property
    def against(self) -> int:
        """So many answers make a cohort void: with the quorum they are ``floor`` - 1 more than there are owners."""
        return len(self.owners) - self.quorum + self.floor - 1


class Cohort(NamedTuple):
    """What is signed. ``after`` is the place on the menu of the release that it goes on from."""

    round: int
    members: str
    after: int = START
    charter: int = 0

    @property
    def digest(self) -> tuple[int, int, int]:
        """The round's: all drafts of a round that begin with one model have the same."""
        return self.charter, self.round, self.after

    def __str__(self) -> str:
        return f"{self.members}{self.round}" + "'" * self.charter


class Answer(NamedTuple):
    round: int
    head: int
    """The newest release in the ledger of who answers."""
    listed: int


class Memory(NamedTuple):
    """What an owner has written down under one charter."""

    round: int = 0
    """The newest that it answered or committed in."""
    answers: tuple[Answer, ...] = ()
    consents: int = 0
    commits: int = 0
    void: int = 0
    head: int = START
    lost: int = 0
    """Commits that it no longer knows of: none, as long as owners remember."""


State = tuple[Memory, ...]
"""A memory for each seat."""


@dataclass(frozen=True)
class Setting:
    """Who there is, and which cohorts the adversary asks for. Owners answer rounds up to ``last``."""

    charters: tuple[Charter, ...]
    menu: tuple[Cohort, ...]
    liars: str = ""
    rules: frozenset[str] = RULES
    last: int = 3

    @cached_property
    def seats(self) -> tuple[tuple[int, str], ...]:
        """The honest owners, once for each charter that they are owners under."""
        return tuple((c, o) for c, each in enumerate(self.charters) for o in each.owners if o not in self.liars)

    @cached_property
    def lying(self) -> tuple[int, ...]:
        """How many of each charter's owners lie."""
        return tuple(sum(o in self.liars for o in each.owners) for each in self.charters)

    @cached_property
    def quorums(self) -> tuple[int, ...]:
        return tuple(each.quorum - ("a quorum commits" not in self.rules) for each in self.charters)

    @cached_property
    def votes(self) -> tuple[int, ...]:
        return tuple(each.against - ("enough answers" not in self.rules) for each in self.charters)

    @cached_property
    def ledgers(self) -> dict[int, int]:
        """What is released in the ledger that ends with each head."""
        found = {START: 0}
        for place, cohort in enumerate(self.menu):
            found[place] = found[cohort.after] | 1 << place  # the menu has what goes before first
        return found

    @cached_property
    def near(self) -> tuple[int, ...]:
        """For each cohort those on the same model that are not its own and differ by fewer than ``floor`` members."""
        return tuple(
            sum(1 << place for place, other in enumerate(self.menu) if self.is_near(one, other)) for one in self.menu
        )

    def is_near(self, one: Cohort, other: Cohort) -> bool:
        floor = max(self.charters[one.charter].floor, self.charters[other.charter].floor)
        return one.after == other.after and 0 < len({*one.members} ^ {*other.members}) < floor

    @cached_property
    def under(self) -> tuple[int, ...]:
        """The cohorts of each charter."""
        return tuple(
            sum(1 << place for place, each in enumerate(self.menu) if each.charter == c)
            for c in range(len(self.charters))
        )

    @cached_property
    def same_round(self) -> tuple[int, ...]:
        return tuple(
            sum(1 << p for p, other in enumerate(self.menu) if (other.charter, other.round) == (one.charter, one.round))
            for one in self.menu
        )

    @cached_property
    def same_digest(self) -> tuple[int, ...]:
        return tuple(
            sum(1 << p for p, other in enumerate(self.menu) if other.digest == one.digest) for one in self.menu
        )

    @cached_property
    def from_model(self) -> dict[int, int]:
        """The cohorts that begin with each model."""
        return {head: sum(1 << p for p, each in enumerate(self.menu) if each.after == head) for head in self.ledgers}

    @cached_property
    def invited(self) -> tuple[int, ...]:
        """For each seat the cohorts that its owner is a member of."""
        return tuple(
            sum(1 << p for p, each in enumerate(self.menu) if each.charter == c and o in each.members)
            for c, o in self.seats
        )

    @cached_property
    def of_charter(self) -> tuple[tuple[int, ...], ...]:
        """The seats under each charter."""
        return tuple(
            tuple(s for s, (under, _) in enumerate(self.seats) if under == c) for c in range(len(self.charters))
        )

    @cached_property
    def other_seats(self) -> tuple[tuple[int, ...], ...]:
        """For each seat those of the same owner under other charters."""
        return tuple(
            tuple(s for s, (c, other) in enumerate(self.seats) if other == o and c != charter)
            for charter, o in self.seats
        )


def places(bits: int) -> list[int]:
    return [place for place in range(bits.bit_length()) if bits >> place & 1]


# What an owner does; None: it refuses.


def answer(setting: Setting, state: State, seat: int, number: int) -> Memory | None:
    """The owner goes on to a round and says what it has committed that may yet be released."""
    mine = state[seat]
    if number <= mine.round:
        return None
    listed = mine.commits & ~mine.void & ~setting.ledgers[mine.head]
    if "answers list commits" not in setting.rules:
        listed = 0
    if "answers of all models" not in setting.rules:
        listed &= setting.from_model[mine.head]
    charter = setting.seats[seat][0]
    telling = "later answers" not in setting.rules or any(
        each.round < number for each in setting.menu if each.charter == charter
    )  # what counts against nothing is not kept: there are fewer states, and none of them is another
    answers = (*mine.answers, Answer(number, mine.head, listed)) if telling else mine.answers
    return mine._replace(round=number, answers=answers)


def consent(setting: Setting, state: State, seat: int, place: int) -> Memory | None:
    """The owner agrees to be in a cohort of the round that it answered."""
    mine, cohort, bit = state[seat], setting.menu[place], 1 << place
    if not setting.invited[seat] & ~mine.consents & bit or cohort.round != mine.round or cohort.after != mine.head:
        return None
    if "nothing void" in setting.rules and mine.void & bit:
        return None
    if "far across charters" in setting.rules:
        for other in setting.other_seats[seat]:
            if state[other].consents & ~state[other].void & setting.near[place]:
                return None
    return mine._replace(consents=mine.consents | bit)


def commit(setting: Setting, state: State, seat: int, place: int) -> Memory | None:
    """The owner, a member or not, signs a cohort. In a later round than it answered it does so as a late witness."""
    mine, cohort, bit = state[seat], setting.menu[place], 1 << place
    if cohort.charter != setting.seats[seat][0] or mine.commits & bit or cohort.after != mine.head:
        return None
    if "nothing void" in setting.rules and mine.void & bit:
        return None
    if "no way back" in setting.rules and cohort.round < mine.round:
        return None
    if "consents come first" in setting.rules and not agreed(setting, state, place):
        return None
    counted = mine.commits & ~mine.void
    if "one cohort a round" in setting.rules and counted & setting.same_round[place]:
        return None
    if "far apart" in setting.rules and counted & setting.near[place] & setting.under[cohort.charter]:
        return None
    return mine._replace(round=max(mine.round, cohort.round), commits=mine.commits | bit)


def free(setting: Setting, state: State, seat: int, place: int, *, liars: bool = True) -> Memory | None:
    """The owner is shown all answers, and finds that a cohort which it signed is void."""
    mine = state[seat]
    if not (mine.consents | mine.commits) & ~mine.void & 1 << place:
        return None
    if not is_void(setting, state, place, mine.head, liars=liars):
        return None
    return mine._replace(void=mine.void | 1 << place)


def catch_up(setting: Setting, state: State, seat: int, head: int) -> Memory | None:
    """The owner is shown a ledger that goes on from its own."""
    mine = state[seat]
    if head in (START, mine.head) or setting.menu[head].charter != setting.seats[seat][0]:
        return None
    if setting.ledgers[head] & ~released(setting, state) or not on_way(setting, mine.head, head):
        return None
    return mine._replace(head=head)


def forget(setting: Setting, state: State, seat: int) -> Memory | None:
    mine = state[seat]
    if "owners remember" in setting.rules or not mine.commits:
        return None
    return mine._replace(commits=0, lost=mine.lost | mine.commits)


# What signatures show.


def on_way(setting: Setting, earlier: int, later: int) -> bool:
    """Whether a ledger that ends with ``later`` has the head ``earlier``."""
    return earlier == START or bool(setting.ledgers[later] >> earlier & 1)


def agreed(setting: Setting, state: State, place: int) -> bool:
    """Whether all members have consented."""
    seats = setting.of_charter[setting.menu[place].charter]
    return all(state[s].consents >> place & 1 for s in seats if setting.invited[s] >> place & 1)


def released(setting: Setting, state: State) -> int:
    """The cohorts of which the adversary has all that a release takes."""
    found = 0
    for place, cohort in enumerate(setting.menu):
        seats = setting.of_charter[cohort.charter]
        commits = sum((state[s].commits | state[s].lost) >> place & 1 for s in seats) + setting.lying[cohort.charter]
        if commits < setting.quorums[cohort.charter]:
            continue
        if "all members consent" not in setting.rules or agreed(setting, state, place):
            found |= 1 << place
    return found


def speaks_against(setting: Setting, answer: Answer, place: int, head: int) -> bool:
    """Whether an answer counts against a cohort, for one whose ledger ends with ``head``."""
    cohort = setting.menu[place]
    if answer.round <= cohort.round and "later answers" in setting.rules:
        return False
    if "heads that are shown" in setting.rules:
        if setting.ledgers[answer.head] >> place & 1:
            return False
    elif "known heads" in setting.rules and not on_way(setting, answer.head, head):
        return False  # it may list nothing because it knows of a release
    if "answers of all models" not in setting.rules and answer.head != cohort.after:
        return False
    entry = 1 << place if "whole entries" in setting.rules else setting.same_digest[place]
    return not answer.listed & entry


def is_void(setting: Setting, state: State, place: int, head: int, *, liars: bool = True) -> bool:
    """Whether all answers that there are make a cohort void, for one whose ledger ends with ``head``."""
    if "not what is released" in setting.rules and setting.ledgers[head] >> place & 1:
        return False
    charter = setting.menu[place].charter
    count = setting.lying[charter] if liars else 0
    for seat in setting.of_charter[charter]:
        count += any(speaks_against(setting, each, place, head) for each in state[seat].answers)
    return count >= setting.votes[charter]


# What must never be.


def violation(setting: Setting, state: State) -> str:
    """What is wrong with a state, or nothing."""
    out = released(setting, state)
    heads = [head for head, ledger in setting.ledgers.items() if not ledger & ~out]
    for place in places(out):
        cohort = setting.menu[place]
        if not agreed(setting, state, place):
            return f"consent: {cohort} is released, and one in it has not agreed"
        if any(state[s].void >> place & 1 for s in setting.of_charter[cohort.charter]):
            return f"budget: {cohort} is released, and is void to an owner"
        if any(is_void(setting, state, place, head) for head in heads):
            return f"budget: {cohort} is released, and can be shown to be void"
    for one, other in combinations(places(out), 2):
        both = f"{setting.menu[one]} and {setting.menu[other]} are both released"
        if setting.same_round[one] >> other & 1:
            return f"round: {both}"
        if setting.near[one] >> other & 1:
            return f"near: {both}"
    return ""
