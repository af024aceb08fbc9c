"""A node is set up from its node.toml: its charter, what it proves, and what it has others prove.

It remembers, on disk, the newest charter that it accepted of each name, so that nobody can bring back an older one, or
show it one of two that share a serial.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloister.attest.attester import find
from cloister.charter.charter import Charter, Member, check_valid
from cloister.charter.names import shown
from cloister.charter.owner_limits import check_floors, reference_under
from cloister.charter.signatures import Signature, check_signed
from cloister.charter.succession import Wait, check_successor
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, ConfigurationError
from cloister.files import read_text
from cloister.net.collateral import source
from cloister.net.files import read_charter, read_charter_text
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy, configuration_digest
from cloister.net.polling import Wakeup
from cloister.net.proving import Instance
from cloister.net.secrets import ProvisionedInstance
from cloister.net.signatures import read_hand_overs, read_signatures, signatures_beside
from cloister.node import config, lasting
from cloister.node.aggregators import Aggregators
from cloister.node.config import CharterUse, NodeConfiguration, TeeUse
from cloister.node.server import Node
from cloister.node.tags import trains_under, untagged
from cloister.tables import TEXT_BYTES

if TYPE_CHECKING:
    from cloister.node.study.runner import Participation

_log: Final = logging.getLogger(__name__)


def load_charter(
    use: CharterUse, *, own: str | None, now: datetime, remember: bool = True, note: bool = False
) -> Charter:
    """The charter that a node's configuration names, which is remembered from then on, unless it is only looked at.
    ``note``: it is written down even then that it was seen, where it has to wait.

    ``own``: the fingerprint of the node's identity; None in a TEE, where it is new at each start. ``now``: the time
    with its offset, by the owner's clock.

    Raises:
        CharterError: the charter has faults; it is not valid now; it names a
            simulated TEE and the configuration does not accept one; ``own`` is no member; a signature is missing or not
            valid; the owner's floors do not fit it; a newer one, or another with its serial, was accepted before; an
            owner's key is said to be lost, and the time to wait for it is not over; or a file cannot be read or
            written.
    """
    text = read_charter_text(use.file, error=CharterError)
    charter = parse_charter(text, source=str(use.file))
    check_valid(charter, now=now)
    if not use.accept_simulated and any(entry.tee == "simulated" for entry in charter.reference):
        raise CharterError(
            f"the charter {charter.name!r} accepts a simulated TEE, which proves nothing; for a rehearsal, say"
            " accept_simulated = true under [charter] in the node's configuration"
        )
    if use.unsafe_salt is not None and any(entry.tee != "simulated" for entry in charter.reference):
        raise CharterError(
            f"unsafe_salt makes the order of rows known, which is for rehearsals, and the charter {charter.name!r} is"
            " none: it accepts a real TEE. Take it out of [charter] in the node's configuration"
        )
    signatures = read_signatures(use.signatures)
    known = None if use.state is None else _recall(use.state, charter.name)
    if use.floors is not None:
        check_floors(charter, floors=use.floors)
    wait = partial(_wait, use.state, known, charter, now, remember or note)
    _check_signatures(use, charter, known, signatures, own=own, wait=wait)
    if remember and use.state is not None and (known is None or known.serial < charter.serial):
        _remember(use.state, charter, text)
    return charter


def _wait(
    state: Path | None, known: Charter | None, charter: Charter, now: datetime, note: bool, silent: Sequence[Member]
) -> None:
    """Checks that the owners ``silent``, whose keys are said to be lost, had the time that ``known`` names.

    Raises:
        CharterError: they had not.
    """
    # It reads the node's records, which few who start a node need for this.
    from cloister.node.waiting import check_waited

    if state is None or known is None:
        raise CharterError(f"nobody here has waited for {', '.join(shown(owner.name) for owner in silent)}")
    check_waited(state, old=known, new=charter, silent=silent, now=now, note=note)


def note_successor(configuration: NodeConfiguration, file: Path, *, now: datetime) -> Charter:
    """Looks at a successor of one of the charters of a node as its next start would, and writes down that the node has
    seen it; the node may be running.

    Raises:
        CharterError: as ``load_charter``; until when the node waits, where it does.
    """
    own = None if configuration.identity is None else Identity.load(configuration.identity).fingerprint
    name = read_charter(file, error=CharterError).name
    use = next((use for use in configuration.charters if _is_of(use, name)), None)
    if use is None:
        raise CharterError(f"{configuration.name} works under no charter {name!a}: {file} is no successor of any here")
    use = replace(use, file=file, signatures=signatures_beside(file))
    return load_charter(use, own=own, now=now, remember=False, note=True)


def _is_of(use: CharterUse, name: str) -> bool:
    return read_charter(use.file, error=CharterError).name == name


def _check_signatures(
    use: CharterUse,
    charter: Charter,
    known: Charter | None,
    signatures: tuple[Signature, ...],
    *,
    own: str | None,
    wait: Wait,
) -> None:
    """``known``: the newest charter of that name that was accepted before. Raises ``CharterError``."""
    try:
        if known is None:
            check_signed(charter, signatures=signatures, own=own)
        else:
            hand_overs = read_hand_overs(use.signatures)
            check_successor(known, new=charter, signatures=signatures, hand_overs=hand_overs, own=own, wait=wait)
    except CharterError as fault:
        if signatures:
            raise
        raise CharterError(
            f"{fault}. There are no signatures in {use.signatures}; `cloister charter sign NAME.study` writes them to"
            " NAME.sigs beside the study file: where that is another folder, name it as `signatures` beside the"
            " charter's `file`"
        ) from None


def _recall(state: Path, name: str) -> Charter | None:
    """The newest charter of that name that was accepted."""
    file = _memory(state, name)
    try:
        file.stat()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise CharterError(f"{file} cannot be read: {fault.strerror}") from None
    first, _, text = read_text(file, limit=TEXT_BYTES + 128, error=CharterError).partition("\n")
    try:
        charter = parse_charter(text, source=str(file))
        whole = charter.name == name and first == _seal(charter)
    except CharterError:
        whole = False
    if not whole:
        raise CharterError(
            f"{file} remembers which charter was accepted last, and is damaged; restore it from a backup. Only if you"
            f" are sure that the charter {name!r} is the newest one, remove the file"
        )
    return charter


def _remember(state: Path, charter: Charter, text: str) -> None:
    """Writes down the charter, for good: when this returns, no crash or loss of power undoes it."""
    file = _memory(state, charter.name)
    try:
        lasting.write(file, f"{_seal(charter)}\n{text}")
    except OSError as fault:
        raise CharterError(
            f"{file} cannot be written, so that the charter would be forgotten: {fault.strerror}"
        ) from None


def _memory(state: Path, name: str) -> Path:
    return state / f"{name}.charter"


def _seal(charter: Charter) -> str:
    return f"# accepted {charter.digest.hex()}"


_SEALED: Final = "a sealed data set is opened by a node in a TEE only, which can be given its key: see [tee]"
_NEEDS: Final = "a node in a TEE proves under which charter it runs: name one, with [charter]"


def node_of(file: str | os.PathLike[str]) -> Node:
    """The node of a configuration file, listening.

    Raises:
        ConfigurationError: the file, the charter that it names, or what either needs, cannot be used.
        NoTeeError: it is to run in a TEE, and there is none.
    """
    text = config.read_text(file)
    configuration = config.parse(text, folder=Path(file).absolute().parent, source=str(file))
    identity = None if configuration.identity is None else Identity.load(configuration.identity)
    found = agreed(configuration)
    instance = None
    if configuration.tee is not None:
        instance = _instance(configuration.tee, found[0] if len(found) == 1 else None, text)
    elif any(data_set.key is not None for data_set in configuration.data_sets):
        raise ConfigurationError(_SEALED)
    if identity is None or not found:
        return Node(configuration, instance=instance)
    uses = [(use, _policy(use, charter)) for use, charter in zip(configuration.charters, found, strict=True)]
    closed = [(use, policy) for use, policy in uses if not policy.charter.interactive]
    participations: list[Callable[[Wakeup], Participation]] = []
    if closed:
        # Its NumPy is for those who take part in studies.
        from cloister.node.study.runner import participations_of

        participations = participations_of(configuration, uses=closed, identity=identity)
        for charter in found:
            if trains_under(charter, identity.fingerprint):
                for fault in untagged(charter, configuration.study_data):
                    _log.warning("%s", fault)
    use, policy = next((each for each in uses if each[1].charter.interactive), uses[0])
    aggregators = Aggregators(policy, identity=identity, routes=use.routes)
    return Node(configuration, instance=instance, aggregators=aggregators, participations=participations)


def agreed(configuration: NodeConfiguration, *, remember: bool = True) -> tuple[Charter, ...]:
    """The charters that a node's configuration names; they are remembered, unless they are only looked at.

    Raises:
        ConfigurationError: as ``cloister.node.setup.load_charter``; or two of them that go on from each other, or that
            are both open to interactive use.
    """
    own = None if configuration.identity is None else Identity.load(configuration.identity).fingerprint
    now = datetime.now(UTC)
    found = tuple(load_charter(use, own=own, now=now, remember=remember) for use in configuration.charters)
    names = [charter.name for charter in found]
    if len(set(names)) < len(names):
        raise CharterError("two of the charters have one name: a successor takes the place of the one before it")
    if sum(charter.interactive for charter in found) > 1:
        raise CharterError("two of the charters are interactive, and a node moves values under one")
    return found


def _instance(tee: TeeUse, charter: Charter | None, text: str) -> Instance:
    if charter is None:
        raise ConfigurationError(_NEEDS)
    return ProvisionedInstance(
        role="node",
        attester=find(tee.kind, role="node"),
        charter=charter.digest,
        name=tee.address,
        configuration=configuration_digest(text),
    )


def _policy(use: CharterUse, charter: Charter) -> AttestationPolicy:
    return AttestationPolicy(
        charter=charter,
        reference=reference_under(charter, floors=use.floors),
        accept_simulated=use.accept_simulated,
        collateral=source(use.collateral),
    )
