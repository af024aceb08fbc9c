"""How a node comes to take part in the studies of its charter: its member, its records and its training."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from functools import partial

from cloister.ledger import audit
from cloister.net.identity import Identity, private_key
from cloister.net.policy import Demands
from cloister.net.polling import Bell
from cloister.node.config import NodeConfiguration
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from cloister.node.study.runner import Participation
from cloister.node.study.trainer import Trainer


def participation_of(
    configuration: NodeConfiguration, *, demands: Demands, identity: Identity
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
