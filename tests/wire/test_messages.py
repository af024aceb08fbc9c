"""Laws of the messages: what is written is read back, and what breaks a rule is refused, by an error of ours."""

from __future__ import annotations

import contextlib
import inspect
import math
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import FrameError, LimitError, MessageError, VersionError, WireError
from cloister.wire import fields, frames, limits, messages, optimizers, round_bodies, rounds, sessions, tensors
from cloister.wire.frames import PREFIX_BYTES, Kind, pack_prefix, unpack_prefix
from cloister.wire.messages import Hello, encode
from cloister.wire.sessions import Batch, Call, Free, Put, check_body, decode
from cloister.wire.tensors import ITEM_BYTES, TensorSpec
from tests.vectors.wire import make

NAMES = st.text(max_size=limits.NAME_CHARS)
IDS = st.integers(1, (1 << 63) - 1)
MANY_IDS = st.lists(IDS, max_size=5).map(tuple)
SIZES = st.integers(0, limits.SIZE)
SHAPES = st.lists(SIZES, max_size=limits.DIMENSIONS).map(tuple)
SPECS = st.builds(TensorSpec, st.sampled_from(sorted(ITEM_BYTES)), SHAPES)
STRIDED = st.builds(sessions.StridedSpec, st.sampled_from(sorted(ITEM_BYTES)), SHAPES, SHAPES)
TAGS = st.lists(NAMES, max_size=4).map(tuple)
SITES = st.integers(0, (1 << 31) - 1)
DIGESTS = st.binary(min_size=32, max_size=32)
PEERS = DIGESTS.map(lambda digest: f"sha256:{digest.hex()}")
TEXTS = st.text(max_size=200)
FLOATS = st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | FLOATS | NAMES
ARGUMENTS = SCALARS | st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=4)

COMMANDS = st.one_of(
    st.builds(Put, IDS, SPECS),
    st.builds(
        Call,
        NAMES,
        st.lists(ARGUMENTS, max_size=4),
        st.dictionaries(NAMES, ARGUMENTS, max_size=3),
        st.lists(st.integers(0, (1 << 63) - 1), max_size=3).map(tuple),
        st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
        SITES,
    ),
    st.builds(Free, MANY_IDS),
    st.builds(sessions.Tag, IDS, TAGS),
    st.builds(sessions.Reach, PEERS, SITES),
    st.builds(sessions.Push, MANY_IDS, PEERS, DIGESTS, SITES),
    st.builds(sessions.Take, MANY_IDS, st.lists(SPECS, max_size=3).map(tuple), PEERS, DIGESTS, SITES),
)
SCHEDULES = st.builds(optimizers.StepDecay, SIZES, FLOATS) | st.builds(optimizers.CosineDecay, SIZES, FLOATS)
SHARED = (FLOATS, FLOATS, st.none() | FLOATS, st.none() | SCHEDULES)
OPTIMIZERS = st.one_of(
    st.builds(optimizers.SGD, *SHARED, FLOATS, FLOATS, st.booleans()),
    *(
        st.builds(kind, *SHARED, st.tuples(FLOATS, FLOATS), FLOATS, st.booleans())
        for kind in (optimizers.Adam, optimizers.AdamW)
    ),
)
QUESTIONS = st.one_of(
    st.builds(sessions.Fetch, MANY_IDS),
    st.builds(sessions.Describe, MANY_IDS),
    st.builds(sessions.Search, TAGS, IDS),
    st.builds(sessions.Count),
    st.builds(
        sessions.Train,
        IDS,
        MANY_IDS,
        MANY_IDS,
        st.lists(IDS, min_size=1, max_size=3).map(tuple),
        OPTIMIZERS,
        SIZES,
        SIZES,
        st.integers(0, (1 << 64) - 1),
        FLOATS,
        st.none() | FLOATS,
    ),
)
ANSWERS = st.one_of(
    st.builds(sessions.Values, st.lists(SPECS, max_size=3).map(tuple)),
    st.builds(sessions.Described, st.lists(STRIDED, max_size=3).map(tuple)),
    st.builds(sessions.Found, st.lists(st.builds(sessions.Match, TAGS, STRIDED), max_size=3).map(tuple)),
    st.builds(sessions.Counted, SIZES, SIZES),
    st.builds(sessions.Trained, st.dictionaries(NAMES, FLOATS, max_size=3), SIZES),
    st.builds(sessions.Done),
)
SMALL = st.integers(0, 255)
WHOLE = st.integers(0, (1 << 53) - 1)
ROUNDS = st.integers(1, (1 << 53) - 1)
HEADS = DIGESTS | st.just(b"")
METRICS = st.dictionaries(NAMES, FLOATS, max_size=3)
RECORDS = st.lists(st.integers(1, limits.RECORD_BYTES), max_size=3).map(tuple)
SIGNATURES = st.builds(rounds.MemberSignature, PEERS, st.binary(max_size=100), st.binary(max_size=100))
SIGNED_ANSWERS = st.builds(rounds.SignedAnswer, st.binary(max_size=100), SIGNATURES)
STANDINGS = st.builds(
    rounds.Standing,
    SIGNED_ANSWERS,
    st.lists(st.lists(PEERS, max_size=3).map(tuple), max_size=3).map(tuple),
    st.booleans(),
)
FROM_MEMBERS = st.one_of(
    st.builds(rounds.Chain, WHOLE, RECORDS, SIZES, WHOLE, st.lists(SIZES, max_size=2).map(tuple)),
    st.builds(rounds.Join, WHOLE, HEADS, WHOLE, st.booleans()),
    st.builds(rounds.Ready, ROUNDS, ROUNDS, st.floats(), st.floats(), METRICS, DIGESTS, STANDINGS),
    st.builds(rounds.Contribution, ROUNDS, DIGESTS),
    st.builds(rounds.Declined, ROUNDS, TEXTS, st.none() | STANDINGS),
    st.builds(rounds.Consent, ROUNDS, DIGESTS, SIGNATURES),
    st.builds(rounds.Commit, ROUNDS, SIGNATURES),
    st.builds(rounds.Submit, st.integers(1, limits.JOB_BYTES)),
    st.builds(rounds.Stop),
)
FROM_AGGREGATORS = st.one_of(
    st.builds(rounds.HandOver, WHOLE),
    st.builds(rounds.Work, DIGESTS),
    st.builds(rounds.Propose, ROUNDS, DIGESTS, DIGESTS, WHOLE, HEADS, DIGESTS, FLOATS),
    st.builds(rounds.Send, ROUNDS),
    st.builds(rounds.Answers, ROUNDS, st.lists(SIGNED_ANSWERS, max_size=3).map(tuple)),
    st.builds(rounds.Draft, ROUNDS, st.binary(max_size=100)),
    st.builds(rounds.Settle, ROUNDS, st.binary(max_size=100), DIGESTS, st.lists(SIGNATURES, max_size=3).map(tuple)),
    st.builds(rounds.Over, ROUNDS, TEXTS),
    st.builds(rounds.Refused, WHOLE, st.sampled_from(get_args(rounds.RefusedCode)), TEXTS),
    st.builds(rounds.Accepted, DIGESTS, WHOLE),
    st.builds(rounds.Waiting, TEXTS),
    st.builds(rounds.Finished, DIGESTS, WHOLE, TEXTS),
)
MESSAGES = {
    Kind.HELLO: st.builds(
        Hello,
        st.lists(SMALL, min_size=1, max_size=16).map(tuple),
        st.sampled_from(["session", "push", "study"]),
        NAMES,
        st.none() | DIGESTS,
    ),
    Kind.WELCOME: st.builds(messages.Welcome, SMALL, NAMES, SIZES, SIZES),
    Kind.REFUSAL: st.builds(
        messages.Refusal,
        st.sampled_from(get_args(messages.RefusalCode)),
        TEXTS,
        st.integers(0, limits.WAIT_S),
    ),
    Kind.WAIT: st.builds(messages.Wait, st.integers(0, limits.WAIT_S)),
    Kind.BATCH: st.builds(Batch, st.lists(COMMANDS, max_size=4)),
    Kind.ASK: st.builds(sessions.Ask, st.lists(COMMANDS, max_size=3), QUESTIONS),
    Kind.ANSWER: ANSWERS,
    Kind.FAILURE: st.builds(sessions.Failure, NAMES, NAMES, SITES, TEXTS),
    Kind.PUSH: st.builds(sessions.Delivery, DIGESTS, st.lists(SPECS, max_size=3).map(tuple)),
    Kind.CHALLENGE: st.builds(
        messages.Challenge, st.lists(SMALL, min_size=1, max_size=16).map(tuple), DIGESTS, DIGESTS
    ),
    Kind.PROOF: st.builds(messages.Proof, st.binary(max_size=100), st.binary(max_size=100)),
    Kind.PROVISION: st.builds(messages.Provision, NAMES, st.binary(max_size=100)),
    Kind.ROUND: FROM_MEMBERS | FROM_AGGREGATORS,
    Kind.DIAL: st.builds(sessions.Dial, PEERS),
    Kind.AWAIT: st.builds(sessions.Await, PEERS, DIGESTS),
}
KINDED = st.one_of(*(st.tuples(st.just(kind), strategy) for kind, strategy in MESSAGES.items()))
FRAMES = [make.frame(kind, make.pack(message), body) for kind, message, body in make.GOOD.values()]


def read(data: bytes) -> object:
    """Reads a frame's prefix and message, and checks the length of its body."""
    kind, header_bytes, body_bytes = unpack_prefix(data[:PREFIX_BYTES])
    message = decode(kind, data[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
    round_bodies.check_body(message, body_bytes) if kind is Kind.ROUND else check_body(message, body_bytes)
    return message


def test_every_kind_is_tried():
    assert set(MESSAGES) == set(Kind)


@pytest.mark.slow
@given(KINDED)
def test_an_end_without_sessions_understands_nothing_of_them(kinded):
    kind, message = kinded
    if kind in messages.VOCABULARY:
        assert messages.decode(kind, encode(message)) == message
    else:
        with pytest.raises(MessageError, match=f"{kind.name} has no place here"):
            messages.decode(kind, encode(message))


@pytest.mark.slow
@given(KINDED)
def test_what_is_written_is_read_back(kinded):
    kind, message = kinded
    again = decode(kind, encode(message))
    assert again == message
    assert encode(again) == encode(message)
    assert type(again) is type(message)


@given(KINDED, st.binary(min_size=1, max_size=8))
def test_nothing_may_follow_a_message(kinded, more):
    kind, message = kinded
    with pytest.raises(MessageError):
        decode(kind, encode(message) + more)


@given(KINDED, st.data())
def test_no_message_may_be_cut(kinded, data):
    kind, message = kinded
    header = encode(message)
    with pytest.raises(MessageError):
        decode(kind, header[: data.draw(st.integers(0, len(header) - 1))])


@given(st.sampled_from(list(Kind)), st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(kind, data):
    try:
        message = decode(kind, data)
    except WireError:
        return
    assert decode(kind, encode(message)) == message or has_nan(data)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.sampled_from(FRAMES), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_frame_with_bytes_changed_is_a_frame_or_refused(frame, changes):
    data = bytearray(frame)
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(WireError):
        read(bytes(data))


@given(st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES))
def test_any_20_bytes_are_a_prefix_or_refused(data):
    try:
        prefix = unpack_prefix(data)
    except WireError:
        return
    assert pack_prefix(prefix.kind, header_bytes=prefix.header_bytes, body_bytes=prefix.body_bytes) == data


@given(st.sampled_from(list(Kind)), st.integers(0, limits.HEADER_BYTES), st.integers(0, limits.BODY_BYTES))
def test_prefixes(kind, header_bytes, body_bytes):
    data = pack_prefix(kind, header_bytes=header_bytes, body_bytes=body_bytes)
    assert len(data) == PREFIX_BYTES == 20
    assert unpack_prefix(memoryview(data)) == (kind, header_bytes, body_bytes)


@pytest.mark.parametrize("length", [0, 19, 21])
def test_a_prefix_is_20_bytes(length):
    with pytest.raises(FrameError, match="20 bytes"):
        unpack_prefix(bytes(length))


def has_nan(data: bytes) -> bool:
    return b"\x7f" in data or b"\xff" in data or b"\xca" in data or b"\xcb" in data


# One over each limit is refused, and the limit itself is not.


def call(**changed: object) -> list[object]:
    fields = {"op": "x", "args": [], "kwargs": {}, "outs": [], "seed": None, "site": 0} | changed
    return [[["call", *fields.values()]]]


def ready(**changed: object) -> list[object]:
    given = {"metrics": {}, "commitment": bytes(32), "standing": standing()} | changed
    return ["ready", 1, 1, 1.0, 0.0, *given.values()]


def standing(**changed: object) -> list[object]:
    return [*({"answer": answer(), "elsewhere": [], "open": False} | changed).values()]


def answer(data: bytes = b"", **changed: object) -> list[object]:
    return [data, signature(**changed)]


def signature(**changed: object) -> list[object]:
    return [*({"member": make.BOB, "key": b"", "signature": b""} | changed).values()]


NAME, TEXT, PEER = "x" * limits.NAME_CHARS, "x" * limits.TEXT_CHARS, make.BOB
ITEMS, ID = [1] * limits.LIST_ITEMS, (1 << 63) - 1
SPEC = ["uint8", []]
AT_THE_LIMIT = {
    "commands": (Kind.BATCH, lambda over: [[["free", []]] * (limits.COMMANDS + over)]),
    "commands of an ask": (Kind.ASK, lambda over: [[["free", []]] * (limits.COMMANDS + over), ["count"]]),
    "arguments": (Kind.BATCH, lambda over: call(args=[1] * (limits.ARGUMENTS + over))),
    "named arguments": (
        Kind.BATCH,
        lambda over: call(kwargs={str(i): 1 for i in range(limits.ARGUMENTS + over)}),
    ),
    "an argument's name": (Kind.BATCH, lambda over: call(kwargs={NAME + "x" * over: 1})),
    "an operation's name": (Kind.BATCH, lambda over: call(op=NAME + "x" * over)),
    "a text argument": (Kind.BATCH, lambda over: call(args=[NAME + "x" * over])),
    "a list argument": (Kind.BATCH, lambda over: call(args=[ITEMS + [1] * over])),
    "a list in a list": (Kind.BATCH, lambda over: call(args=[[ITEMS + [1] * over]])),
    "lists in a list": (Kind.BATCH, lambda over: call(args=[[[]] * (limits.LIST_ITEMS + over)])),
    "the depth of lists": (Kind.BATCH, lambda over: call(args=[[[[]] if over else []]])),
    "outputs": (Kind.BATCH, lambda over: call(outs=ITEMS + [1] * over)),
    "an output": (Kind.BATCH, lambda over: call(outs=[ID + over])),
    "a seed": (Kind.BATCH, lambda over: call(seed=ID + over)),
    "a seed below zero": (Kind.BATCH, lambda over: call(seed=-(1 << 63) if not over else 1 << 63)),
    "a site": (Kind.BATCH, lambda over: call(site=(1 << 31) - 1 + over)),
    "objects freed": (Kind.BATCH, lambda over: [[["free", ITEMS + [1] * over]]]),
    "an id": (Kind.BATCH, lambda over: [[["free", [ID + over]]]]),
    "tags": (Kind.BATCH, lambda over: [[["tag", 1, ["x"] * (limits.TAGS + over)]]]),
    "a tag": (Kind.BATCH, lambda over: [[["tag", 1, [NAME + "x" * over]]]]),
    "tags searched": (Kind.ASK, lambda over: [[], ["search", ["x"] * (limits.TAGS + over), 1]]),
    "objects pushed": (Kind.BATCH, lambda over: [[["push", ITEMS + [1] * over, PEER, make.TICKET, 0]]]),
    "a ticket": (Kind.BATCH, lambda over: [[["push", [], PEER, make.TICKET + b"x" * over, 0]]]),
    "a fingerprint": (Kind.BATCH, lambda over: [[["push", [], PEER + "0" * over, make.TICKET, 0]]]),
    "a fingerprint's end": (Kind.DIAL, lambda over: [PEER + "\n" * over]),
    "objects taken": (
        Kind.BATCH,
        lambda over: [[["take", [], [SPEC] * (limits.LIST_ITEMS + over), PEER, make.TICKET, 0]]],
    ),
    "objects fetched": (Kind.ASK, lambda over: [[], ["fetch", ITEMS + [1] * over]]),
    "objects described": (Kind.ASK, lambda over: [[], ["describe", ITEMS + [1] * over]]),
    "values": (Kind.ANSWER, lambda over: ["values", [SPEC] * (limits.LIST_ITEMS + over)]),
    "descriptions": (Kind.ANSWER, lambda over: ["described", [["uint8", [], []]] * (limits.LIST_ITEMS + over)]),
    "matches": (Kind.ANSWER, lambda over: ["found", [[[], ["uint8", [], []]]] * (limits.FOUND + over)]),
    "a count": (Kind.ANSWER, lambda over: ["counted", limits.SIZE + over, 0]),
    "dimensions": (Kind.ANSWER, lambda over: ["values", [["uint8", [0] * (limits.DIMENSIONS + over)]]]),
    "strides": (Kind.ANSWER, lambda over: ["described", [["uint8", [], [0] * (limits.DIMENSIONS + over)]]]),
    "a size": (Kind.ANSWER, lambda over: ["described", [["uint8", [limits.SIZE + over], []]]]),
    "an element type's name": (Kind.ANSWER, lambda over: ["described", [["x" * (16 + over), [], []]]]),
    "a failure's code": (Kind.FAILURE, lambda over: [NAME + "x" * over, "", 0, ""]),
    "a failure's operation": (Kind.FAILURE, lambda over: ["", NAME + "x" * over, 0, ""]),
    "a failure's text": (Kind.FAILURE, lambda over: ["", "", 0, TEXT + "x" * over]),
    "a refusal's text": (Kind.REFUSAL, lambda over: ["busy", TEXT + "x" * over, 0]),
    "versions": (Kind.HELLO, lambda over: [[1] * (limits.VERSIONS + over), "session", "", None]),
    "a version": (Kind.HELLO, lambda over: [[255 + over], "session", "", None]),
    "a program's name": (Kind.HELLO, lambda over: [[1], "session", NAME + "x" * over, None]),
    "a digest": (Kind.HELLO, lambda over: [[1], "session", "", bytes(32 + over)]),
    "a worker's name": (Kind.WELCOME, lambda over: [1, NAME + "x" * over, 0, 0]),
    "a version chosen": (Kind.WELCOME, lambda over: [255 + over, "", 0, 0]),
    "a chain's records": (Kind.ROUND, lambda over: ["chain", 0, ITEMS + [1] * over, 0, 0, []]),
    "a record": (Kind.ROUND, lambda over: ["chain", 0, [limits.RECORD_BYTES + over], 0, 0, []]),
    "a rule's state": (Kind.ROUND, lambda over: ["chain", 0, [], 1, 0, [1] * (2 + over)]),
    "a sequence": (Kind.ROUND, lambda over: ["hand-over", (1 << 53) - 1 + over]),
    "a round": (Kind.ROUND, lambda over: ["send", (1 << 53) - 1 + over]),
    "a head": (Kind.ROUND, lambda over: ["join", 0, bytes(32 + over), 0, False]),
    "metrics": (
        Kind.ROUND,
        lambda over: ready(metrics={str(i): 0.5 for i in range(limits.METRICS + over)}),
    ),
    "a metric's name": (Kind.ROUND, lambda over: ready(metrics={NAME + "x" * over: 0.5})),
    "a commitment": (Kind.ROUND, lambda over: ready(commitment=bytes(32 + over))),
    "an answer": (Kind.ROUND, lambda over: ready(standing=standing(answer=answer(bytes(limits.ANSWER_BYTES + over))))),
    "cohorts elsewhere": (
        Kind.ROUND,
        lambda over: ready(standing=standing(elsewhere=[[]] * (limits.ELSEWHERE + over))),
    ),
    "a cohort elsewhere": (
        Kind.ROUND,
        lambda over: ready(standing=standing(elsewhere=[[PEER] * (limits.LIST_ITEMS + over)])),
    ),
    "an answer of who declines": (
        Kind.ROUND,
        lambda over: ["declined", 1, "", standing(answer=answer(bytes(limits.ANSWER_BYTES + over)))],
    ),
    "answers": (Kind.ROUND, lambda over: ["answers", 1, [answer()] * (limits.MEMBERS + over)]),
    "an answer among them": (Kind.ROUND, lambda over: ["answers", 1, [answer(bytes(limits.ANSWER_BYTES + over))]]),
    "the public key of an answer": (
        Kind.ROUND,
        lambda over: ["answers", 1, [answer(key=bytes(limits.KEY_BYTES + over))]],
    ),
    "why a round is declined": (Kind.ROUND, lambda over: ["declined", 1, TEXT + "x" * over]),
    "a public key": (Kind.ROUND, lambda over: ["commit", 1, signature(key=bytes(limits.KEY_BYTES + over))]),
    "a signature": (Kind.ROUND, lambda over: ["commit", 1, signature(signature=bytes(limits.SIGNATURE_BYTES + over))]),
    "whose signature it is": (Kind.ROUND, lambda over: ["commit", 1, signature(member=PEER + "0" * over)]),
    "a consent's signature": (
        Kind.ROUND,
        lambda over: ["consent", 1, bytes(32), signature(signature=bytes(limits.SIGNATURE_BYTES + over))],
    ),
    "what is consented to": (Kind.ROUND, lambda over: ["consent", 1, bytes(32 + over), signature()]),
    "a cohort": (Kind.ROUND, lambda over: ["draft", 1, bytes(limits.ROUND_BODY_BYTES + over)]),
    "a cohort to commit": (
        Kind.ROUND,
        lambda over: ["settle", 1, bytes(limits.ROUND_BODY_BYTES + over), bytes(32), []],
    ),
    "an outcome": (Kind.ROUND, lambda over: ["settle", 1, b"", bytes(32 + over), []]),
    "consents": (Kind.ROUND, lambda over: ["settle", 1, b"", bytes(32), [signature()] * (limits.MEMBERS + over)]),
    "a job": (Kind.ROUND, lambda over: ["submit", limits.JOB_BYTES + over]),
    "memory": (Kind.WELCOME, lambda over: [1, "", limits.SIZE + over, 0]),
    "a time to wait": (Kind.WAIT, lambda over: [limits.WAIT_S + over]),
    "a time to stay away": (Kind.REFUSAL, lambda over: ["put-off", "", limits.WAIT_S + over]),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", AT_THE_LIMIT)
def test_one_over_each_limit_is_refused(what):
    kind, message = AT_THE_LIMIT[what]
    decode(kind, msgspec.msgpack.encode(message(0)))
    with pytest.raises(MessageError):
        decode(kind, msgspec.msgpack.encode(message(1)))


def test_lengths_of_frames():
    pack_prefix(Kind.BATCH, header_bytes=limits.HEADER_BYTES, body_bytes=limits.BODY_BYTES)
    for over in ({"header_bytes": limits.HEADER_BYTES + 1}, {"header_bytes": 0, "body_bytes": limits.BODY_BYTES + 1}):
        with pytest.raises(LimitError):
            pack_prefix(Kind.BATCH, **over)


def test_a_message_that_is_too_long_to_send():
    batch = Batch([Free(tuple(range(10**12, 10**12 + limits.LIST_ITEMS)))] * 40)
    with pytest.raises(LimitError, match="in parts"):
        encode(batch)


def test_every_limit_is_used():
    """A limit that nothing looks at would be a promise only."""
    source = "".join(inspect.getsource(module) for module in (messages, fields, frames, rounds, sessions, tensors))
    unused = [name for name in vars(limits) if name.isupper() and name not in source]
    # How much is moved at once; how long what is sealed may be, which its sealed form bounds here; and how much of a
    # ledger travels at once, which the aggregator looks at.
    assert unused == ["CHUNK_BYTES", "SECRET_BYTES", "CHAIN_BYTES"]


# Bodies


@given(st.lists(SPECS, max_size=4))
def test_a_body_is_as_long_as_its_tensors(specs):
    message = sessions.Values(tuple(specs))
    counts = [math.prod(spec.shape) for spec in specs]
    if any(count > limits.SIZE for count in counts):
        with pytest.raises(LimitError):
            check_body(message, 0)
        return
    total = sum(count * ITEM_BYTES[spec.dtype] for count, spec in zip(counts, specs, strict=True))
    assert check_body(message, total) == tuple(specs)
    for wrong in (total - 1, total + 1):
        with pytest.raises(MessageError, match="came for tensors of"):
            check_body(message, wrong)


def test_bodies_come_with_puts_values_and_deliveries_only():
    spec = TensorSpec("uint8", (2,))
    put = Put(1, spec)
    assert check_body(Batch([put, Free((1,)), put]), 4) == (spec, spec)
    assert check_body(sessions.Ask([put], sessions.Count()), 2) == (spec,)
    assert check_body(sessions.Delivery(bytes(32), (spec,)), 2) == (spec,)
    take = sessions.Take((1,), (spec,), make.BOB, bytes(32), 0)
    assert check_body(Batch([take]), 0) == ()
    with pytest.raises(MessageError):
        check_body(sessions.Done(), 1)


def test_what_the_page_leaves_open():
    """Integers packed longer than need be are read, and of a key that stands twice the last one counts."""
    longer = b"\x92\x90\x92\xa5fetch\x91\xcf" + bytes(7) + b"\x05"
    assert decode(Kind.ASK, longer) == sessions.Ask([], sessions.Fetch((5,)))
    (command,) = decode(Kind.BATCH, msgspec.msgpack.encode(call(kwargs={"a": 1}))).commands
    twice = msgspec.msgpack.encode(call(kwargs={"a": 1})).replace(b"\x81\xa1a\x01", b"\x82\xa1a\x01\xa1a\x02")
    assert decode(Kind.BATCH, twice).commands == [msgspec.structs.replace(command, kwargs={"a": 2})]


def test_element_types_that_do_not_travel():
    with pytest.raises(MessageError, match="'object' does not travel"):
        TensorSpec("object", ()).nbytes()


def test_refusals_repeat_no_values():
    secret = "s3cret"
    for kind, hostile in (
        (Kind.HELLO, [[1], secret, secret, None]),
        (Kind.HELLO, [[1], f"{secret} - at \n'", "", None]),
        (Kind.HELLO, [[1], "session", secret * 100, None]),
        (Kind.BATCH, [[[secret, 1]]]),
        (Kind.DIAL, [secret]),
        (Kind.DIAL, {secret: secret}),
    ):
        with pytest.raises(MessageError) as caught:
            decode(kind, msgspec.msgpack.encode(hostile))
        assert secret not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_prefix_of_another_version():
    good = frames.pack_prefix(Kind.HELLO, header_bytes=1)
    for version in (0, frames.VERSION + 1, 255):
        with pytest.raises(VersionError, match=f"version {version}"):
            frames.unpack_prefix(good[:4] + bytes([version]) + good[5:])
