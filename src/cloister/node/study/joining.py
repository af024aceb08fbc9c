"""How a node comes to take part in the studies of its charter: its member, its records and its training."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from functools import partial

from cloister.ledger import audit
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.net.polling import Wakeup
from cloister.node.config import NodeConfiguration
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from cloister.node.study.runner import Participation
from cloister.node.study.trainer import Trainer


def participation_of(
    configuration: NodeConfiguration, *, policy: AttestationPolicy, identity: Identity
) -> Callable[[Wakeup], Participation] | None:
    """What takes part in the studies of a charter that is closed to interactive use, for a node of one of its owners.

    Raises:
        RecordsError: the node's records cannot be used. LedgerError: what they hold is no chain of this charter.
    """
    charter, use = policy.charter, configuration.charter
    own = charter.member(identity.fingerprint)
    if use is None or own is None or own.role != "owner":
        return None
    verify_instance = partial(
        audit.verify_instance,
        charter=charter,
        collateral=policy.collateral,
        reference=policy.reference,
        accept_simulated=policy.accept_simulated,
        unsafe_roots=policy.unsafe_roots,
    )

    def begin(closing: Wakeup) -> Participation:
        records = Records(use.state)
        try:
            member = Member(
                charter=charter,
                own=own.name,
                key=private_key(identity.path),
                floors=use.floors,
                data={each.name: frozenset(each.tags) for each in configuration.study_data},
                records=records,
                verify_instance=verify_instance,
                new_salt=partial(secrets.token_bytes, 32),
            )
        except BaseException:
            records.close()
            raise
        limits = configuration.training
        return Participation(
            member,
            records=records,
            policy=policy,
            identity=identity,
            routes=use.routes,
            trainer=Trainer(limits, configuration.study_data, listener=os.getpid(), closing=closing),
            closing=closing,
            model_bytes=limits.memory_bytes,
            jitter=random.SystemRandom().random,
        )

    return begin
