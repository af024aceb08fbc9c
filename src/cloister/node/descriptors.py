"""File descriptors for as many sessions as a node may have: known before the first caller, and not found out by one."""

from __future__ import annotations

import resource
from typing import Final

from cloister.errors import ConfigurationError

_OWN: Final = 64
_SESSION: Final = 24
"""For each session, in the listener: its connection, two links to its executor and their memory, a push, and a few
pipes while one is started."""


def provide(*, sessions: int, connections: int) -> None:
    """Has this process may open as many files as so many executors and connections take (getrlimit(2)).

    Raises:
        ConfigurationError: the system does not allow so many; the message says what to do.
    """
    needed = _OWN + connections + sessions * _SESSION
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{sessions} sessions and spare executors take up to {needed} file descriptors, and this process may have"
            f" {hard}: lower max_sessions, or raise the limit (LimitNOFILE= in a systemd unit, ulimit -Hn in a shell)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
