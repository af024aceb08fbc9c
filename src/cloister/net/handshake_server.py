"""How the end that was dialled hears a hello, or says why not (docs/wire.md, "Opening")."""

from __future__ import annotations

from cloister.errors import MessageError, VersionError, WireError
from cloister.net.connection import Connection, Frame
from cloister.wire.frames import VERSION, Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.messages import Hello, Refusal, RefusalCode


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


def refuse(connection: Connection, code: RefusalCode, *, text: str, wait_s: int = 0) -> None:
    """Says why, and in how many seconds to come again (0: not known), and ends the connection. Raises nothing."""
    connection.farewell(Kind.REFUSAL, Refusal(code=code, text=text[:TEXT_CHARS], wait_s=wait_s))


def refuse_for(connection: Connection, fault: WireError) -> None:
    """Refuses a peer that broke the rules, or that keeps to another version's. Raises nothing."""
    refuse(connection, "version" if isinstance(fault, VersionError) else "protocol", text=str(fault))


def _hello(frame: Frame) -> Hello:
    if frame.kind is not Kind.HELLO or frame.body_bytes:
        raise MessageError(f"a conversation opens with a hello, not with {frame.kind.name}")
    hello: Hello = frame.message()
    return hello
