"""A member that asks how the study stands, or has its job stopped, beside the connection on which it takes part."""

from __future__ import annotations

from typing import Final

from cloister.aggregator.peers import refused
from cloister.enclave.hub import Hub
from cloister.errors import JobError, MessageError, NoAnswerError, WireError
from cloister.net.connection import Connection
from cloister.net.handshake_server import refuse, refuse_for
from cloister.wire.frames import Kind
from cloister.wire.rounds import Ask, Stop

_IDLE_S: Final = 10.0
"""A connection on which nothing is asked for so long is one of the member's few that it lacks elsewhere."""
_QUESTIONS: Final = 16
"""The questions on one connection. Another connection costs more than an answer does."""


def answer_questions(connection: Connection, *, hub: Hub) -> None:
    """Answers one member's questions, until it has no more of them.

    Raises:
        NetworkError: the connection is lost.
    """
    try:
        for _ in range(_QUESTIONS):
            frame = connection.receive(wait_s=_IDLE_S)
            message = frame.message() if frame.kind is Kind.ROUND and not frame.body_bytes else None
            if not isinstance(message, Ask | Stop):
                raise MessageError("on a connection for the status, Ask and Stop are said, and nothing else")
            try:
                if isinstance(message, Stop):
                    hub.stop(connection.peer)
            except JobError as fault:
                connection.send(Kind.ROUND, refused(0, fault))
            else:
                connection.send(Kind.ROUND, hub.status())
        refuse(connection, "closing", text=f"these were {_QUESTIONS} questions; connect again for more")
    except NoAnswerError:
        refuse(connection, "closing", text=f"nothing was asked for {_IDLE_S:g} s")
    except WireError as fault:
        refuse_for(connection, fault)
