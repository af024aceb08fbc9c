"""The messages of a session: what a caller has a worker do with tensors, and what the worker answers.

docs/wire.md is their specification. They travel once a hello with the purpose ``session``, or ``push``, was welcomed.

An operation's arguments follow the operator's own schema (docs/adr/0003), so they carry no type tags: where the schema
says ``Tensor`` a positive integer is an object's id and a list of one number is that number; where it says ``int`` an
integer is an integer.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

from msgspec import Meta, Struct

from cloister.errors import MessageError
from cloister.wire import messages
from cloister.wire.fields import Fingerprint, Message, Name, Text
from cloister.wire.frames import Kind
from cloister.wire.limits import ARGUMENTS, COMMANDS, FOUND, INPUTS, LIST_ITEMS, METRICS, NAME_CHARS, TAGS
from cloister.wire.optimizers import Optimizer
from cloister.wire.tensors import DType, Shape, Size, TensorSpec

ObjectId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
OutputId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Ids = Annotated[tuple[ObjectId, ...], Meta(max_length=LIST_ITEMS)]
ManyIds = Annotated[tuple[ObjectId, ...], Meta(max_length=INPUTS)]
OutputIds = Annotated[tuple[OutputId, ...], Meta(max_length=LIST_ITEMS)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=TAGS)]
Specs = Annotated[tuple[TensorSpec, ...], Meta(max_length=LIST_ITEMS)]
Ticket = Annotated[bytes, Meta(min_length=32, max_length=32)]
Site = Annotated[int, Meta(ge=0, lt=1 << 31)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]

Scalar = None | bool | int | float | Annotated[str, Meta(max_length=NAME_CHARS)]
_Row = Scalar | Annotated[list[Scalar], Meta(max_length=LIST_ITEMS)]
Argument = Scalar | Annotated[list[_Row], Meta(max_length=LIST_ITEMS)]
"""An operation's argument: a scalar, a list of scalars, or a list of lists of them, and no deeper."""


# What a caller tells a worker to do. None of these is answered.


class Put(Message, tag="put", frozen=True):
    """Hold this tensor; its bytes are in the frame's body, in the order of the ``Put``s."""

    id: ObjectId
    spec: TensorSpec


class Call(Struct, array_like=True, forbid_unknown_fields=True, tag="call"):
    """Run one operation. ``outs`` names the tensors it makes, in order, 0 for one that is absent.

    Not frozen: one is made for every operation, and its outputs are known last.
    """

    op: Name
    args: Annotated[list[Argument], Meta(max_length=ARGUMENTS)]
    kwargs: Annotated[dict[Name, Argument], Meta(max_length=ARGUMENTS)]
    outs: OutputIds
    seed: Seed | None
    site: Site


class Free(Message, tag="free", frozen=True):
    """Forget these objects."""

    ids: Ids


class Tag(Message, tag="tag", frozen=True):
    """Keep the object, under these tags and no others, until the session ends; without tags, no longer than its ids."""

    id: ObjectId
    tags: Tags


class Reach(Message, tag="reach", frozen=True):
    """Have a connection to this worker ready for a push: where there is no way, that is known before anybody waits."""

    peer: Fingerprint
    site: Site


class Push(Message, tag="push", frozen=True):
    """Give the values of these objects to the same caller's session at another worker, named by its key."""

    ids: Ids
    peer: Fingerprint
    ticket: Ticket
    site: Site


class Take(Message, tag="take", frozen=True):
    """Hold, under these ids, what that worker pushes with this ticket."""

    ids: Ids
    specs: Specs
    peer: Fingerprint
    ticket: Ticket
    site: Site


Command = Put | Call | Free | Tag | Reach | Push | Take
Commands = Annotated[list[Command], Meta(max_length=COMMANDS)]


class Batch(Message, frozen=True):
    """Commands, run in order."""

    commands: Commands


# What a caller may ask. Each is answered by one answer or one failure.


class Fetch(Message, tag="fetch", frozen=True):
    """The values of these objects. Answered by ``Values``."""

    ids: Ids


class Describe(Message, tag="describe", frozen=True):
    """The shapes of these objects. Answered by ``Described``."""

    ids: Ids


class Search(Message, tag="search", frozen=True):
    """Tensors that carry all these tags; they get ids from ``first`` upwards. Answered by ``Found``."""

    tags: Tags
    first: ObjectId


class Count(Message, tag="count", frozen=True):
    """How much this session holds. Answered by ``Counted``."""


class Train(Message, tag="train", frozen=True):
    """Train a model that this session holds, in place. Answered by ``Trained``.

    ``plan`` is an object too: a ``uint8`` tensor of the plan's bytes. ``parameters`` and ``buffers`` are in the plan's
    order, ``columns`` in the order of its batch; the rows of all columns are the data set.
    """

    plan: ObjectId
    parameters: ManyIds
    buffers: ManyIds
    columns: Annotated[tuple[ObjectId, ...], Meta(min_length=1, max_length=METRICS)]
    optimizer: Optimizer
    batch_size: Size
    local_epochs: Size
    seed: Annotated[int, Meta(ge=0)]
    proximal: float
    clip: float | None


Question = Fetch | Describe | Search | Count | Train


class Ask(Message, frozen=True):
    """Commands, run in order, and then one question."""

    commands: Commands
    question: Question


class Values(Message, tag="values", frozen=True):
    """Tensors; their bytes are in the frame's body, in order."""

    specs: Specs


class StridedSpec(Message, frozen=True):
    """A tensor's element type, shape and strides (in elements)."""

    dtype: DType
    shape: Shape
    strides: Shape


class Described(Message, tag="described", frozen=True):
    """The shapes that were asked for, in order."""

    specs: Annotated[tuple[StridedSpec, ...], Meta(max_length=LIST_ITEMS)]


class Match(Message, frozen=True):
    """One tensor found: its tags and its shape."""

    tags: Tags
    spec: StridedSpec


class Found(Message, tag="found", frozen=True):
    """What a search found."""

    matches: Annotated[tuple[Match, ...], Meta(max_length=FOUND)]


class Counted(Message, tag="counted", frozen=True):
    """Objects that the session holds, and the bytes of memory behind them."""

    objects: Size
    nbytes: Size


class Trained(Message, tag="trained", frozen=True):
    """The means over all that was trained on, ``"loss"`` among them; the body holds the loss of each step, float64."""

    metrics: Annotated[dict[Name, float], Meta(max_length=METRICS + 1)]
    steps: Size

    @property
    def losses(self) -> TensorSpec:
        """What the body holds."""
        return TensorSpec("float64", (self.steps,))


class Done(Message, tag="done", frozen=True):
    """Done, and nothing to say about it."""


Answer = Values | Described | Found | Counted | Trained | Done


class Failure(Message, frozen=True):
    """The first thing that went wrong since the last answer: its code (``WorkerError``), the operation, the site."""

    code: Name
    op: Name
    site: Site
    text: Text


# From worker to worker.


class Delivery(Message, frozen=True):
    """Values from worker to worker; their bytes are in the frame's body, in order."""

    ticket: Ticket
    specs: Specs


# Between a node's listener and its executors.


class Dial(Message, frozen=True):
    """Open a connection to this peer; a ``Delivery`` for it follows."""

    peer: Fingerprint


class Await(Message, frozen=True):
    """Hand me the ``Delivery`` that this peer makes with this ticket."""

    peer: Fingerprint
    ticket: Ticket


VOCABULARY: Final = {
    **messages.VOCABULARY,
    **messages.vocabulary(
        {
            Kind.BATCH: Batch,
            Kind.ASK: Ask,
            Kind.ANSWER: Answer,
            Kind.FAILURE: Failure,
            Kind.PUSH: Delivery,
            Kind.DIAL: Dial,
            Kind.AWAIT: Await,
        }
    ),
}
"""What an end that takes part in sessions understands."""


STEP: Final = "a training step"
"""What a worker is at within a training."""

TAGS_OF_MESSAGES: Final = tuple(str(each.__struct_config__.tag) for each in get_args(Command) + get_args(Question))
"""What a worker can be at beside operations and steps (``tag_of``)."""


def tag_of(message: Command | Question) -> str:
    """What kind of command or question it is, in a word: the tag with which it travels."""
    return str(message.__struct_config__.tag)


def decode(kind: Kind, data: bytes | bytearray | memoryview) -> Any:
    """As ``cloister.wire.messages.decode``, in a session."""
    return messages.decode(kind, data, among=VOCABULARY)


def body_specs(message: Any) -> tuple[TensorSpec, ...]:
    """The tensors whose bytes a message's frame carries in its body, in order."""
    match message:
        case Batch(commands) | Ask(commands):
            return tuple(command.spec for command in commands if type(command) is Put)
        case Values(specs) | Delivery(_, specs):
            return specs
        case Trained():
            return (message.losses,)
        case _:
            return ()


def check_body(message: Any, body_bytes: int) -> tuple[TensorSpec, ...]:
    """``body_specs``, checked against the length of the body that came with the message.

    Raises:
        MessageError: the body is longer or shorter than its tensors, or holds an element type that does not travel.
        LimitError: a tensor of more elements than any may have.
    """
    specs = body_specs(message)
    expected = sum(spec.nbytes() for spec in specs)
    if expected != body_bytes:
        raise MessageError(f"a body of {body_bytes} bytes came for tensors of {expected} bytes")
    return specs
