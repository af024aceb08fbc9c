"""How a node comes to be from its node.toml: its charter, what it proves, and what it has others prove."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from cloister.aggregator import audit
from cloister.attest.attester import find
from cloister.charter import Charter
from cloister.charter.floors import reference_under
from cloister.errors import ConfigurationError
from cloister.net.collateral import source
from cloister.net.demands import Demands, configuration_digest
from cloister.net.identity import Identity, private_key
from cloister.net.proving import Instance
from cloister.net.waiting import Bell
from cloister.node import config
from cloister.node.aggregators import Aggregators
from cloister.node.agreement import load_charter
from cloister.node.config import CharterUse, NodeConfiguration, TeeUse
from cloister.node.member import Member
from cloister.node.participation import Participation
from cloister.node.records import Records
from cloister.node.service import Node
from cloister.node.training import Trainer

_SEALED: Final = "a sealed data set is opened by a node in a TEE only, which can be given its key: see [tee]"
_NEEDS: Final = "a node in a TEE proves under which charter it runs: name it, with [charter]"


def node_of(file: str | os.PathLike[str]) -> Node:
    """The node of a configuration file, listening.

    Raises:
        ConfigurationError: the file, the charter that it names, or what either needs, cannot be used.
        NoTeeError: it is to run in a TEE, and there is none.
    """
    text = config.read_text(file)
    configuration = config.parse(text, folder=Path(file).absolute().parent, source=str(file))
    identity = None if configuration.identity is None else Identity.load(configuration.identity)
    charter = agreed(configuration)
    instance = None
    if configuration.tee is not None:
        instance = _instance(configuration.tee, charter, text)
    elif any(data_set.key is not None for data_set in configuration.data_sets):
        raise ConfigurationError(_SEALED)
    if identity is None or charter is None or configuration.charter is None:
        return Node(configuration, instance=instance)
    demands = _demands(configuration.charter, charter)
    return Node(
        configuration,
        instance=instance,
        aggregators=Aggregators(demands, identity=identity, routes=configuration.charter.routes),
        participation=None if charter.interactive else _participation(configuration, demands, identity),
    )


def agreed(configuration: NodeConfiguration, *, remember: bool = True) -> Charter | None:
    """The charter that a node's configuration names, if it names one; it is remembered, unless it is only looked at.

    Raises:
        ConfigurationError: as ``cloister.node.agreement.load_charter``.
    """
    if configuration.charter is None:
        return None
    own = None if configuration.identity is None else Identity.load(configuration.identity).fingerprint
    return load_charter(configuration.charter, own=own, now=datetime.now(UTC), remember=remember)


def _instance(tee: TeeUse, charter: Charter | None, text: str) -> Instance:
    if charter is None:
        raise ConfigurationError(_NEEDS)
    return Instance(
        role="node",
        attester=find(tee.kind, role="node"),
        charter=charter.digest,
        name=tee.address,
        configuration=configuration_digest(text),
    )


def _demands(use: CharterUse, charter: Charter) -> Demands:
    return Demands(
        charter=charter,
        reference=reference_under(charter, floors=use.floors),
        accept_simulated=use.accept_simulated,
        collateral=source(use.collateral),
    )


def _participation(
    configuration: NodeConfiguration, demands: Demands, identity: Identity
) -> Callable[[Bell], Participation] | None:
    """What takes part in the studies of a charter that is closed to interactive use, for a node of one of its owners.

    Raises:
        RecordsError: the node's records cannot be used. LedgerError: what they hold is no chain of this charter.
    """
    charter, use = demands.charter, configuration.charter
    own = charter.member(identity.fingerprint)
    if use is None or own is None or own.role != "owner":
        return None
    vouch = partial(
        audit.vouch,
        charter=charter,
        collateral=demands.collateral,
        reference=demands.reference,
        accept_simulated=demands.accept_simulated,
        unsafe_roots=demands.unsafe_roots,
    )

    def begin(closing: Bell) -> Participation:
        records = Records(use.state)
        try:
            member = Member(
                charter=charter,
                own=own.name,
                key=private_key(identity.path),
                floors=use.floors,
                data={each.name: frozenset(each.tags) for each in configuration.study_data},
                records=records,
                vouch=vouch,
                new_salt=partial(secrets.token_bytes, 32),
            )
        except BaseException:
            records.close()
            raise
        limits = configuration.training
        return Participation(
            member,
            records=records,
            demands=demands,
            identity=identity,
            routes=use.routes,
            trainer=Trainer(limits, configuration.study_data, listener=os.getpid(), closing=closing),
            closing=closing,
            model_bytes=limits.memory_bytes,
            jitter=random.SystemRandom().random,
        )

    return begin
