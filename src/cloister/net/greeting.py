"""How a conversation is opened: hello, and welcome or refusal (docs/wire.md, "Opening")."""

from __future__ import annotations

from typing import Literal

from cloister import errors
from cloister.errors import CloisterError, MessageError, VersionError, WireError
from cloister.net.connection import Connection, Frame
from cloister.wire.frames import VERSION, Kind
from cloister.wire.limits import NAME_CHARS, TEXT_CHARS
from cloister.wire.messages import Hello, Refusal, Welcome

Purpose = Literal["session", "push", "study"]
RefusalCode = Literal["version", "table", "peer", "busy", "closing", "protocol", "crashed", "charter", "evidence"]

_ERRORS: dict[str, type[CloisterError]] = {
    "version": errors.VersionError,
    "table": errors.VersionError,
    "peer": errors.PeerRefusedError,
    "busy": errors.UnreachableError,
    "closing": errors.ConnectionLostError,
    "protocol": errors.MessageError,
    "crashed": errors.WorkerCrashedError,
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
        UnreachableError: the peer is busy. NoAnswerError: it did not answer within ``wait_s`` seconds.
        ConnectionLostError: the connection ended. WireError: not an answer.
    """
    try:
        hello = Hello(versions=(VERSION,), purpose=purpose, software=software[:NAME_CHARS], table=table)
        connection.send(Kind.HELLO, hello)
        frame = connection.receive(wait_s=wait_s)
        return _welcome(frame)
    except BaseException:
        connection.close()
        raise


def receive_hello(connection: Connection, *, hello_s: float = 10.0) -> Hello:
    """The hello that opens a conversation on a connection that was accepted; it offers a version that is spoken here.

    When this raises, the peer has been told why where that was possible, and the connection is closed.

    Raises:
        NoAnswerError: no hello within ``hello_s`` seconds.
        VersionError: no version in common.
        WireError: not a hello.
        ConnectionLostError: the connection ended, or the hello came too slowly.
    """
    try:
        frame = connection.receive(wait_s=hello_s)
    except WireError as fault:
        refuse_for(connection, fault)
        raise
    except BaseException:
        connection.close()
        raise
    return hello_in(frame, connection)


def hello_in(frame: Frame, connection: Connection) -> Hello:
    """The hello in a frame, as ``receive_hello``.

    Raises:
        VersionError: no version in common. WireError: not a hello. The peer has been told, the connection is closed.
    """
    try:
        hello = _hello(frame)
        if VERSION not in hello.versions:
            offered = ", ".join(map(str, hello.versions))
            raise VersionError(f"this end speaks version {VERSION} of the protocol, and was offered {offered}")
        return hello
    except WireError as fault:
        refuse_for(connection, fault)
        raise


def refuse(connection: Connection, code: RefusalCode, *, text: str) -> None:
    """Says why, and ends the connection. Raises nothing."""
    connection.farewell(Kind.REFUSAL, Refusal(code=code, text=text[:TEXT_CHARS]))


def refuse_for(connection: Connection, fault: WireError) -> None:
    """Refuses a peer that broke the rules, or that keeps to another version's. Raises nothing."""
    refuse(connection, "version" if isinstance(fault, VersionError) else "protocol", text=str(fault))


def refusal_error(refusal: Refusal) -> CloisterError:
    """A refusal as the error to raise."""
    return _ERRORS[refusal.code](f"the worker refuses: {refusal.text}")


def _welcome(frame: Frame) -> Welcome:
    if frame.kind is Kind.REFUSAL:
        raise refusal_error(frame.message())
    if frame.kind is not Kind.WELCOME or frame.body_bytes:
        raise MessageError(f"a hello was answered by {frame.kind.name}")
    welcome: Welcome = frame.message()
    if welcome.version != VERSION:
        raise VersionError(f"the worker chose version {welcome.version} of the protocol, which was not offered")
    return welcome


def _hello(frame: Frame) -> Hello:
    if frame.kind is not Kind.HELLO or frame.body_bytes:
        raise MessageError(f"a conversation opens with a hello, not with {frame.kind.name}")
    hello: Hello = frame.message()
    return hello
