"""How a conversation is opened by the end that dials: hello, and what comes back (docs/wire.md, "Opening")."""

from __future__ import annotations

from typing import Literal

from cloister import errors
from cloister.errors import CloisterError, MessageError, VersionError
from cloister.net.connection import Connection, Frame
from cloister.wire.frames import VERSION, Kind
from cloister.wire.limits import NAME_CHARS
from cloister.wire.messages import Hello, Refusal, Wait, Welcome

Purpose = Literal["session", "push", "study", "status"]

_ERRORS: dict[str, type[CloisterError]] = {
    "version": errors.VersionError,
    "table": errors.VersionError,
    "peer": errors.PeerRefusedError,
    "busy": errors.UnreachableError,
    "put-off": errors.PutOffError,
    "closing": errors.ConnectionLostError,
    "protocol": errors.MessageError,
    "crashed": errors.WorkerCrashedError,
    "ended": errors.SessionEndedError,
    "cpu": errors.CpuLimitError,
    "charter": errors.CharterError,
    "evidence": errors.NoTeeError,
}


def greet(
    connection: Connection, *, purpose: Purpose, software: str, wait_s: float, table: bytes | None = None
) -> Welcome:
    """Opens a conversation on a connection that was dialled. ``table``: the digest of the caller's table of operations.

    Raises:
        PeerRefusedError: the peer does not know this identity, or does not let it do this.
        VersionError: no protocol version, or another table of operations.
        UnreachableError: the peer is busy. PutOffError: it does not let this identity in for a while.
        NoAnswerError: it did not answer within ``wait_s`` seconds, or as many more as it asked for.
        ConnectionLostError: the connection ended. WireError: not an answer.
    """
    try:
        hello = Hello(versions=(VERSION,), purpose=purpose, software=software[:NAME_CHARS], table=table)
        connection.send(Kind.HELLO, hello)
        frame = connection.receive(wait_s=wait_s)
        if frame.kind is Kind.WAIT and not frame.body_bytes:
            # It knows how long it takes, on a cold machine for instance. Once: nobody is kept waiting for ever.
            asked: Wait = frame.message()
            frame = connection.receive(wait_s=max(wait_s, asked.seconds))
        return _welcome(frame)
    except BaseException:
        connection.close()
        raise


def refusal_error(refusal: Refusal) -> CloisterError:
    """A refusal as the error to raise."""
    text = f"the worker refuses: {refusal.text}"
    kind = _ERRORS[refusal.code]
    return errors.PutOffError(text, refusal.wait_s) if kind is errors.PutOffError else kind(text)


def _welcome(frame: Frame) -> Welcome:
    if frame.kind is Kind.REFUSAL:
        raise refusal_error(frame.message())
    if frame.kind is not Kind.WELCOME or frame.body_bytes:
        raise MessageError(f"a hello was answered by {frame.kind.name}")
    welcome: Welcome = frame.message()
    if welcome.version != VERSION:
        raise VersionError(f"the worker chose version {welcome.version} of the protocol, which was not offered")
    return welcome
