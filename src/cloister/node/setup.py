"""How a node comes to be from its node.toml: its charter, what it proves, and what it has others prove."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cloister.attest.attester import find
from cloister.charter import Charter
from cloister.charter.owner_limits import reference_under
from cloister.errors import ConfigurationError
from cloister.net.collateral import source
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy, configuration_digest
from cloister.net.proving import Instance
from cloister.node import config
from cloister.node.aggregators import Aggregators
from cloister.node.agreement import load_charter
from cloister.node.config import CharterUse, NodeConfiguration, TeeUse
from cloister.node.server import Node

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
    policy = _policy(configuration.charter, charter)
    participation = None
    if not charter.interactive:
        # Its NumPy is for those who take part in studies.
        from cloister.node.study.joining import participation_of

        participation = participation_of(configuration, policy=policy, identity=identity)
    aggregators = Aggregators(policy, identity=identity, routes=configuration.charter.routes)
    return Node(configuration, instance=instance, aggregators=aggregators, participation=participation)


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


def _policy(use: CharterUse, charter: Charter) -> AttestationPolicy:
    return AttestationPolicy(
        charter=charter,
        reference=reference_under(charter, floors=use.floors),
        accept_simulated=use.accept_simulated,
        collateral=source(use.collateral),
    )
