"""A node: a listener for callers and other nodes, and an executor process for each session. Imports no torch.

A node is known by its key, or it proves what it runs: inside a TEE it has an ``Instance`` in the place of an identity,
lets everybody challenge it, and lets in those whom it knows.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloister import __version__
from cloister.errors import (
    CloisterError,
    ConfigurationError,
    MoveError,
    PutOffError,
    UnreachableError,
    WireError,
    WorkerCrashedError,
)
from cloister.net.connection import Connection
from cloister.net.contexts import server_context
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.handshake_server import receive_hello, refuse
from cloister.net.identity import Identity
from cloister.net.listener import DESCRIPTORS_AT_THE_DOOR, OWN, Listener
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.net.proving import Instance, Prover
from cloister.net.secrets import ProvisionedInstance, SecretReceiver, Secrets
from cloister.net.shares import STRANGERS
from cloister.node.aggregators import Aggregators
from cloister.node.config import Neighbour, NodeConfiguration, Researcher, StudyData
from cloister.node.confinement import means
from cloister.node.control import Control
from cloister.node.data_files import DataSetEntry, entry_of, inspect_columns, unlock
from cloister.node.descriptors import provide
from cloister.node.running import Place, Running, Session
from cloister.node.session.child import Assignment, Child
from cloister.node.session.moves import Mover, Rendezvous, receive_push
from cloister.node.session.pool import Pool
from cloister.node.session.relay import Relay
from cloister.tables import faulty
from cloister.tensor import optable
from cloister.wire.frames import VERSION, Kind
from cloister.wire.messages import Hello, Wait, Welcome
from cloister.wire.peers import Address

if TYPE_CHECKING:  # it loads NumPy
    from cloister.node.study.runner import Participation

_log: Final = logging.getLogger(__name__)
SOFTWARE: Final = f"cloister {__version__}"
_DIAL_S: Final = 10.0
_END_S: Final = 2.0
"""Beyond the grace period, for threads to notice that it is over."""


def check(
    configuration: NodeConfiguration, *, look: Callable[[StudyData], object] = inspect_columns
) -> tuple[Identity | None, tuple[DataSetEntry, ...]]:
    """Looks at the files that a configuration names: the identity, where there is one, and the data sets' headers. Data
    sets for studies are not among those that it returns; ``look`` raises what is wrong with one of them.

    Raises:
        ConfigurationError: files that cannot be used, all of them, each with its place in node.toml.
    """
    faults: list[str] = []
    entries: list[DataSetEntry] = []
    identity = None
    try:
        if configuration.identity is not None:
            identity = Identity.load(configuration.identity)
        for index, neighbour in enumerate(configuration.workers):
            if identity is not None and neighbour.fingerprint == identity.fingerprint:
                faults.append(f"workers[{index}].fingerprint: this is the node's own key")
    except ConfigurationError as fault:
        faults.append(f"identity: {fault}")
    for data_set in configuration.data_sets:
        try:
            entries.append(entry_of(data_set))
        except ConfigurationError as fault:
            faults.append(f"data_sets[{data_set.index}]: {fault}")
    for data in configuration.study_data:
        try:
            look(data)
        except ConfigurationError as fault:
            faults.append(f"data_sets[{data.index}]: {fault}")
    if faults:
        raise faulty("the node's configuration", faults)
    return identity, tuple(entries)


class Node:
    """A node that listens from the start, if it has an address, and serves in ``serve``.

    Args:
        participations: its part in the studies of each charter, as functions of the wakeup that is set when the node
            closes.

    Raises:
        ConfigurationError: its files cannot be used, or its address cannot be bound.
    """

    def __init__(
        self,
        configuration: NodeConfiguration,
        *,
        instance: Instance | None = None,
        aggregators: Aggregators | None = None,
        participations: Sequence[Callable[[Wakeup], Participation]] = (),
    ) -> None:
        self._configuration = configuration
        self._identity, entries = check(configuration)
        self._instance = instance
        self._aggregators = aggregators
        self._researchers: Mapping[str, Researcher] = {peer.fingerprint: peer for peer in configuration.researchers}
        self._workers: Mapping[str, Neighbour] = {peer.fingerprint: peer for peer in configuration.workers}
        self._running = Running(configuration.session)
        self._rendezvous = Rendezvous()
        self._closing = Wakeup()
        self._numbers = count(1)
        limits = configuration.session
        self._assignment = Assignment(
            listener=os.getpid(),
            memory_bytes=limits.memory_bytes,
            objects=limits.objects,
            device=limits.device,
            threads=limits.threads,
        )
        self._entries = entries
        self._secrets = Secrets([data_set.key for data_set in configuration.data_sets if data_set.key is not None])
        self._unlocking = threading.Lock()
        with ExitStack() as begun:
            self._participations: list[Participation] = []
            for begin in participations:
                self._participations.append(begin(self._closing))
                begun.callback(self._participations[-1].close)
            self._listener = None if configuration.listen is None else self._listen(configuration.listen)
            begun.pop_all()

    def _listen(self, address: Address) -> Listener:
        limits = self._configuration.session
        common = 2 * limits.max_sessions + 64  # sessions, as many again to be told "busy", and the pushes that may wait
        strangers = STRANGERS if self._instance is not None else 0
        known = len({*self._researchers, *self._workers})
        provide(
            sessions=limits.max_sessions + limits.spare_executors,
            connections=common + OWN * known + strangers + DESCRIPTORS_AT_THE_DOOR,
        )
        return Listener(
            address=str(address),
            context=self._context(),
            accepts=self._knows,
            handle=self._handle,
            common=common,
            strangers=strangers,
        )

    @property
    def name(self) -> str:
        """What callers see."""
        return self._configuration.name

    @property
    def fingerprint(self) -> str:
        """Of the key that it shows: its identity's, or one that is as old as this instance."""
        shown = self._instance or self._identity
        return shown.fingerprint if shown is not None else ""

    @property
    def address(self) -> Address | None:
        """Where it listens, if it does: the port is the one that the system gave when 0 was asked for."""
        return None if self._listener is None else self._listener.address

    def stop(self) -> None:
        """Makes ``serve`` come to its end. May be called by a signal handler."""
        self._closing.set()

    def serve(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until ``stop``. Sessions then finish the frame that they are at, within the grace period.

        ``ready`` is called when the first executor has warmed up and callers are let in.

        Raises:
            WorkerCrashedError: no executor can be started here.
        """
        confined = means()
        _log.log(logging.INFO if all(confined) else logging.WARNING, "executors are confined by %s", confined)
        with ExitStack() as running:
            if self._configuration.control is not None:
                self._obey(self._configuration.control, running)
            if self._listener is not None:
                self._serve_sessions(self._listener, running)
            for participation in self._participations:
                self._take_part(participation, running)
            running.callback(self._closing.set)
            ready()
            wait({self._closing.fileno(): READABLE}, until=None)
            _log.info("closing")

    def _serve_sessions(self, listener: Listener, running: ExitStack) -> None:
        limits = self._configuration.session
        self._pool = Pool(
            lambda: Child.start(self._assignment), sessions=limits.max_sessions, spares=limits.spare_executors
        )
        watching = threading.Thread(target=self._running.watch, name="cloister limits", daemon=True)
        watching.start()
        running.callback(watching.join)
        running.callback(self._running.close)
        running.callback(self._pool.close)
        running.callback(listener.close, grace_s=limits.grace_s + _END_S)
        running.callback(self._closing.set)
        self._pool.warm()
        threading.Thread(target=listener.serve, name="cloister listener", daemon=True).start()

    def _obey(self, path: Path, running: ExitStack) -> None:
        try:
            control = Control(path, self._running, closing=self._closing)
        except OSError as fault:
            _log.warning("no socket for `cloister node sessions` at %s: %s", path, fault.strerror or fault)
            return
        running.callback(control.close)
        thread = threading.Thread(target=control.serve, name="cloister control", daemon=True)
        running.callback(thread.join, _END_S)
        running.callback(self._closing.set)
        thread.start()

    def _take_part(self, participation: Participation, running: ExitStack) -> None:
        thread = threading.Thread(target=participation.run, name="cloister study", daemon=True)
        # It may be dialling, which nothing interrupts; its child dies with it.
        running.callback(thread.join, _END_S)
        thread.start()

    def _context(self) -> ssl.SSLContext:
        if self._instance is not None:
            return self._instance.context
        if self._identity is None:
            raise ConfigurationError("a node has an identity, or runs in a TEE and proves what it is")
        return server_context(self._identity)

    def _knows(self, peer: str) -> bool:
        return peer in self._researchers or peer in self._workers or self._secrets.expects(peer)

    def _handle(self, connection: Connection) -> None:
        if self._instance is None:
            self._open(connection, receive_hello(connection), None)
            return
        if isinstance(self._instance, ProvisionedInstance):
            prover: Prover = SecretReceiver(connection, self._instance, secrets=self._secrets, kept=self._unlock)
        else:  # an aggregator, to which nothing is sealed
            prover = Prover(connection, self._instance)
        hello = prover.open()
        if hello is not None:
            self._open(connection, hello, prover)

    def _unlock(self) -> None:
        """A secret has come: what it opens is there for sessions that are opened from now on."""
        with self._unlocking:
            self._entries = unlock(self._entries, data_sets=self._configuration.data_sets, secrets=self._secrets)

    def _open(self, connection: Connection, hello: Hello, prover: Prover | None) -> None:
        match hello.purpose, self._researchers.get(connection.peer), self._workers.get(connection.peer):
            case "session", Researcher() as researcher, _:
                self._open_session(connection, hello, researcher, prover)
            case "push", _, Neighbour(name=name):
                self._open_push(connection, name)
            case purpose, _, _:
                what = "open sessions" if purpose == "session" else "push values"
                where = "[[researchers]]" if purpose == "session" else "[[workers]]"
                refuse(
                    connection, "peer", text=f"this key may not {what} here; the owner names those that may in {where}"
                )

    def _open_push(self, connection: Connection, name: str) -> None:
        connection.send(Kind.WELCOME, self._welcome())
        try:
            receive_push(
                connection,
                rendezvous=self._rendezvous,
                move_wait_s=self._configuration.session.move_wait_s,
                closing=self._closing,
            )
        except WireError as fault:
            _log.warning("%s broke the protocol in a push: %s", name, fault)
            refuse(connection, "protocol", text=str(fault))

    def _open_session(
        self, connection: Connection, hello: Hello, researcher: Researcher, prover: Prover | None
    ) -> None:
        if hello.table != optable.digest():
            text = f"another table of operations: here is {SOFTWARE}, there {hello.software}; install the same version"
            refuse(connection, "table", text=text)
            return
        place = self._reserve(connection, researcher)
        if place is None:
            return
        try:
            child = self._admit(connection)
            if child is not None:
                number, limits = next(self._numbers), self._configuration.session
                session = Session(number, researcher, child, limits=limits, place=place)
                self._run_session(connection, child, session, prover)
        finally:
            self._running.free(place)

    def _reserve(self, connection: Connection, researcher: Researcher) -> Place | None:
        """A place for a session; None where this researcher may not have one now, and has been told so."""
        try:
            return self._running.reserve(researcher.fingerprint)
        except PutOffError as fault:
            _log.info("%s is put off for another %d s", researcher.name, fault.wait_s)
            refuse(connection, "put-off", text=str(fault), wait_s=ceil(fault.wait_s))
        except UnreachableError as fault:
            refuse(connection, "busy", text=str(fault))
        return None

    def _admit(self, connection: Connection) -> Child | None:
        """An executor; None where there is none, and the caller has been told so."""
        try:
            child = self._pool.admit(tell=lambda most_s: connection.send(Kind.WAIT, Wait(ceil(most_s))))
        except WorkerCrashedError as fault:
            refuse(connection, "crashed", text=str(fault))
        except OSError as fault:
            self._refuse_for_want(connection, fault)
        else:
            if child is None:
                refuse(connection, "busy", text="this worker has all the sessions that it may have; try again later")
            return child
        return None

    def _refuse_for_want(self, connection: Connection, fault: OSError) -> None:
        text = f"this worker's machine gives no more processes at present ({fault.strerror or 'no resources'})"
        refuse(connection, "busy", text=f"{text}; try again later")

    def _run_session(self, connection: Connection, child: Child, session: Session, prover: Prover | None) -> None:
        number, name = session.number, session.researcher.name
        limits = self._configuration.session
        mover = Mover(
            child.moves,
            dial=self._dial,
            rendezvous=self._rendezvous,
            move_wait_s=limits.move_wait_s,
            closing=self._closing,
        )

        def release() -> None:
            self._pool.release(child)
            self._running.leave(session)

        thread = threading.Thread(target=mover.run, name=f"cloister moves {number}", daemon=True)
        how = "it could not be opened"
        try:
            relay = Relay(
                connection,
                child,
                closing=self._closing,
                grace_s=limits.grace_s,
                session=session,
                running=self._running,
                release=release,
                prover=prover,
            )
            _log.info("session %d of %s: opened, executor %d", number, name, child.pid)
            thread.start()
            child.open(self._entries)
            self._running.enter(session)
            connection.send(Kind.WELCOME, self._welcome())
            how = relay.run()
        except RuntimeError as fault:  # the system gives no more threads
            if thread.ident is not None:
                raise
            how = str(fault)
            self._refuse_for_want(connection, OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
        finally:
            release()
            mover.stop()
            _log.info("session %d of %s: over, %s", number, name, how)

    def _welcome(self) -> Welcome:
        limits = self._configuration.session
        return Welcome(
            version=VERSION, name=self._configuration.name, memory_bytes=limits.memory_bytes, objects=limits.objects
        )

    def _dial(self, peer: str) -> Connection:
        """A connection over which values may be pushed to that worker. Its address is the owner's to say, not a
        caller's."""
        # The values may have to wait until the session there comes to them.
        send_s = self._configuration.session.move_wait_s + _DIAL_S
        neighbour = self._workers.get(peer)
        if neighbour is None and self._aggregators is not None:
            connection = self._aggregators.dial(peer, within_s=_DIAL_S, send_s=send_s)
            greet(connection, purpose="push", software=SOFTWARE, wait_s=_DIAL_S)
            return connection
        if neighbour is None or self._identity is None:
            raise MoveError(f"worker {self._configuration.name} does not know {peer}; its owner adds it to [[workers]]")
        if neighbour.address is None:
            raise MoveError(f"worker {self._configuration.name} has no address for {neighbour.name} in [[workers]]")
        try:
            connection = dial(
                str(neighbour.address), identity=self._identity, peer=peer, within_s=_DIAL_S, send_s=send_s
            )
            greet(connection, purpose="push", software=SOFTWARE, wait_s=_DIAL_S)
        except CloisterError as fault:
            raise MoveError(f"{self._configuration.name} cannot push to {neighbour.name}: {fault}") from fault
        return connection
