"""The worst that each parser may be given: inputs of its allowed size, made to take time or memory.

Each input is read in a process of its own, a fork of one that has loaded everything, so that what it takes can be
measured (getrusage(2)) and a parser that does not come back ends by itself (RLIMIT_CPU).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import resource
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import cbor2
import msgspec
import numpy as np
import pyarrow
import pyarrow.parquet

from cloister import files
from cloister.attest import der, evidence, inspect, ratls, received
from cloister.attest.dcap import collateral
from cloister.attest.dcap.published import Published
from cloister.attest.dcap.quote import Quote
from cloister.attest.snp import certificates as snp_certificates
from cloister.attest.transcript import Transcript
from cloister.charter import signatures
from cloister.charter.encoding import ENCODED_BYTES
from cloister.charter.encoding import decode as decode_charter
from cloister.charter.toml import parse_charter
from cloister.errors import CloisterError
from cloister.ledger import answers, job, jsonl, records
from cloister.ledger.learned import learned
from cloister.net import certificates, identity, pccs
from cloister.net.collateral import expiry
from cloister.net.download import Document
from cloister.net.policy import configuration_digest
from cloister.node import config, data_files, sealed_file
from cloister.study import study_file
from cloister.tables import TEXT_BYTES, load
from cloister.tensor.plan import encoding
from cloister.wire import messages, peers, sessions
from cloister.wire.frames import Kind
from cloister.wire.limits import (
    ANSWER_BYTES,
    EVIDENCE_BYTES,
    HEADER_BYTES,
    INPUTS,
    JOB_BYTES,
    RECORD_BYTES,
    TRANSCRIPT_BYTES,
)
from cloister.wire.rounds import SignedAnswer
from cloister.worker.data import headers, pages
from cloister.worker.data.errors import reading
from cloister.worker.data.files import open_file
from cloister.worker.weights import Weights
from tests.support import chains, charters

CPU_S: Final = 20
"""What every case may take, in seconds of CPU. What nothing bounds takes hours, and nothing here takes three seconds on
a machine that is not a hundred times slower than others."""
MEMORY_BYTES: Final = 128 << 20
"""What every case may add to the process, beyond ``Case.times`` the input."""


class Case(NamedTuple):
    """One parser: what it reads, inputs of at most its size, and one that is a byte too long, if it has a length."""

    read: Callable[[Any], object]
    worst: Callable[[Path], Iterator[Any]]
    over: Callable[[Path], Any] | None
    """Refused without being read."""
    times: int = 0
    """How many times its length an input may take in memory, where inputs are long."""


def filled(pattern: str | bytes, size: int, *, before: Any = None, after: Any = None) -> Any:
    """``size`` characters or bytes: a pattern again and again, between others."""
    empty = pattern[:0]
    before, after = before or empty, after or empty
    room = size - len(before) - len(after)
    return before + (pattern * (room // len(pattern) + 1))[: room // len(pattern) * len(pattern)] + after


# --- TOML


def tomls(size: int = TEXT_BYTES) -> Iterator[str]:
    """Keys, headers, arrays, tables, strings and numbers: deep, many, long, and broken off."""
    part = ".".join("a" * 9)
    yield filled("a.", size, after="a=1")
    yield filled("a . ", size, after="a=1")
    yield filled('"".', size, after="a=1")
    yield filled("a.", size, before="[", after="a]\n")
    yield filled("a.", size, before="x={", after="a=1}")
    yield "".join(f"[{part}.b{i}]\n" for i in range(size // 26))
    yield "".join(f"{part}.b{i}=1\n" for i in range(size // 26))
    yield "".join(f"[[{part}]]\n" for _ in range(size // 22))
    for piece, before, after in (
        ("[", "a=", ""),
        ("{a=", "a=", ""),
        ("[[[[[[[[]]]]]]]],", "a=[", "]"),
        ("{a={a={a={a={}}}}},", "a=[", "]"),
        ("9", "a=", ""),
        ("9", "a=0.", ""),
        ("f", "a=0x", ""),
        ("_1", "a=1", ""),
        ("1.5,", "a=[", "]"),
        ("1979-05-27T07:32:00Z,", "a=[", "]"),
        ("'',", "a=[", "]"),
        ("\\n", 'a="', '"'),
        ("\\U0001F600", 'a="', '"'),
        ("\\\n\n", 'a="""', '"""'),
        ('\\"""', 'a="""', '"""'),
        ('\\"""', 'a="""', ""),
        ('""', 'a="""', ""),
        ("''", "a='''x", ""),
        ("\\'", "a='", ""),
        ("x", 'a="', ""),
        ("\r\n", "", ""),
        ("#\n", "a=[", "]"),
        (" ", "a", "=1"),
        ("[[members]]\n", "", ""),
        ("[a]\n", "", ""),
        ("=", "", ""),
        ('"', "", ""),
        ("'", "", ""),
        ("é", "#", ""),
    ):
        yield filled(piece, size, before=before, after=after) if piece != "é" else "#" + "é" * (size // 2 - 1)
    yield "".join(f"k{i}=1\n" for i in range(size // 8))


# --- JSON


def jsons(size: int) -> Iterator[bytes]:
    """Deep, many, long, and absurd."""
    for piece, before, after in (
        ("[", "", ""),
        ('{"a":', "", ""),
        ("[],", "[", "[]]"),
        ('{"a":1},', "[", "1]"),
        ("1e9,", "[", "1]"),
        ("9" * 4300 + ",", "[", "1]"),
        ("9", "", ""),
        ("9", "0.", ""),
        ("9", "1e", ""),
        ("\\u1234", '"', '"'),
        ("\\ud800", '"', '"'),
        (" ", "", "1"),
        ("x", '"', ""),
    ):
        yield filled(piece.encode(), size, before=before.encode(), after=after.encode())
    yield b"{" + b",".join(b'"%d":0' % i for i in range(size // 12)) + b"}"


# --- Binary forms


def msgpacks(size: int, *, head: bytes = b"") -> Iterator[bytes]:
    """Claims of four billion items or bytes, deep arrays, and many of the smallest."""
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        yield head + claim
        yield filled(claim, size, before=head)
    for piece in (b"\x91", b"\x90", b"\x80", b"\xc0", b"\xa0", b"\x81\xa0", b"\xcb\x7f\xf0\0\0\0\0\0\0"):
        yield filled(piece, size, before=head + b"\xdd\x00\x0f\xff\xff")


def cbors(size: int) -> Iterator[bytes]:
    for claim in (
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x5a\xff\xff\xff\xff",
    ):
        yield claim
        yield filled(claim, size)
    for piece in (b"\x81", b"\x80", b"\xa0", b"\xc1", b"\xd8\x1c", b"\x9f"):
        yield filled(piece, size)
    ranges = (size - 32) // len("[\0-\U0010ffff]".encode())
    yield cbor2.dumps(cbor2.CBORTag(35, "(?i)" + "[\0-\U0010ffff]" * ranges))
    yield cbor2.dumps(cbor2.CBORTag(4, [1 << 60, 1]))
    yield cbor2.dumps(cbor2.CBORTag(36, "a: b\n" * ((size - 32) // 5)))
    yield cbor2.dumps((1 << 8 * (size - 16)) - 1)


def ders(size: int) -> Iterator[bytes]:
    for piece in (b"\x30\x80", b"\x30\x00", b"\x30\x84\x7f\xff\xff\xff", b"\x06\x01\x80", b"\x1f"):
        yield filled(piece, size)
    inner = b""
    while len(inner) < size - 8:
        length = len(inner).to_bytes(3)
        inner = (b"\x30" + bytes([len(inner)]) if len(inner) < 128 else b"\x30\x83" + length) + inner
        if len(inner) > 8192:
            break
    yield inner


def pem(label: str, data: bytes) -> bytes:
    body = base64.encodebytes(data)
    return f"-----BEGIN {label}-----\n".encode() + body + f"-----END {label}-----\n".encode()


def rsa_of_mersenne_primes() -> bytes:
    """A key whose primes are as long as a file of the allowed size can hold; to prove them takes a minute."""

    def tlv(tag: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
        return bytes([tag]) + length + content

    def integer(value: int) -> bytes:
        return tlv(2, value.to_bytes(value.bit_length() // 8 + 1))

    p, q, e = 2**9941 - 1, 2**9689 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    body = tlv(0x30, b"".join(map(integer, (0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)))))
    algorithm = tlv(0x30, tlv(6, bytes.fromhex("2a864886f70d010101")) + b"\x05\x00")
    return pem("PRIVATE KEY", tlv(0x30, integer(0) + algorithm + tlv(4, body)))


def identities(folder: Path) -> Iterator[Path]:
    for content in (
        rsa_of_mersenne_primes(),
        filled(b"-----BEGIN PRIVATE KEY-----\n", identity.FILE_BYTES),
        filled(b"A", identity.FILE_BYTES, before=b"-----BEGIN CERTIFICATE-----\n"),
        filled(pem("CERTIFICATE", b"0"), identity.FILE_BYTES),
    ):
        yield written(folder / "me.key", content)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def holes(path: Path, size: int, *, end: bytes = b"", start: bytes = b"") -> Path:
    """A file of that size which takes a few bytes of the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)
    path.chmod(0o600)
    return path


# --- Data sets


def npy(header: bytes, *, version: int = 2) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header


def npys(_: Path) -> Iterator[bytes]:
    size = headers.NPY_HEADER_BYTES
    start = "{'descr': '<f8', 'fortran_order': False, 'shape': "
    for piece, before, after in (
        ("1", start + "(", "!"),
        ("1,", start + "(", "!"),
        ("1 ", start + "(", "!"),
        (" ", start + "(1", "!"),
        ("1, ", start + "(", "), }"),
        ("9", start + "(", ",), }"),
        ("'descr': '", "{", ""),
        ("'descr': [", "{", ""),
        ("(", start, ""),
        (" ", "{", "}"),
        ("{", "", ""),
        ("'", "{", ""),
    ):
        yield npy(filled(piece, size, before=before, after=after).encode())
    yield b"\x93NUMPY\x02\x00\xff\xff\xff\xff"


@cache
def bomb(kind: int, start: bytes = b"") -> bytes:
    """An archive of a quarter of a gigabyte of zeros."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", kind, compresslevel=1) as archive, archive.open("x.npy", "w") as member:
        member.write(start)
        for _ in range(256):
            member.write(bytes(1 << 20))
    return packed.getvalue()


def zips(folder: Path) -> Iterator[Path]:
    path = folder / "x.npz"
    one = npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", version=1)
    yield written(path, bomb(zipfile.ZIP_BZIP2))
    yield written(path, bomb(zipfile.ZIP_DEFLATED))
    yield written(path, bomb(zipfile.ZIP_DEFLATED, one))  # its header claims one number
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(12000):
            archive.writestr(f"{number:016}.npy", b"")
    yield path
    for count, size, start in ((1, 1 << 30, 0), (0xFFFF, 0xFFFFFFFE, 0), (1, 4 << 30, 1)):
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, min(size, 0xFFFFFFFE), start, 0)
        yield holes(path, (1 << 33), end=end)
    claimed = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 32, 0)  # zip64, APPNOTE 4.3.14
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 1 << 32, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    yield holes(path, (1 << 32) + len(claimed + locator + end), end=claimed + locator + end)


def read_npz(path: Path) -> None:
    with reading(path):
        open_file(path, columns=["x"], memory_bytes=1 << 20)


def safetensors(folder: Path) -> Iterator[Path]:
    for header in jsons(headers.HEADER_BYTES):
        yield written(folder / "x.safetensors", len(header).to_bytes(8, "little") + header)
    for shape in ([1 << 47] * 2, [0] * 100_000, ["9" * 4000], [1e300]):
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        yield written(folder / "x.safetensors", len(header).to_bytes(8, "little") + header)


def weights(folder: Path) -> Iterator[Path]:
    """The same, as long as the header of a model's weights may be; and as many tensors as it can name."""
    yield from safetensors(folder)
    for header in jsons(headers.WEIGHTS_HEADER_BYTES):
        yield written(folder / "x.safetensors", len(header).to_bytes(8, "little") + header)
    entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, separators=(",", ":"))
    count = headers.WEIGHTS_HEADER_BYTES // (len(entry) + 12)
    header = ("{" + ",".join(f'"{at:08}":{entry}' for at in range(count)) + "}").encode()
    yield written(folder / "x.safetensors", len(header).to_bytes(8, "little") + header)


def varint(number: int) -> bytes:
    octets = []
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def parquet_file(path: Path, metadata: bytes) -> Path:
    return written(path, b"PAR1" + metadata + struct.pack("<I", len(metadata)) + b"PAR1")


SCHEMA: Final = b"\x15\x02\x19\x2c\x48\x01r\x15\x02\x00\x15\x02\x25\x00\x18\x01x\x00\x16\x00"
"""In Thrift's compact protocol: version 1; a root with one column, x; no rows. The row groups come next."""


def many(item: bytes, count: int) -> bytes:
    return b"\xfc" + varint(count) + item * count


def parquets(folder: Path) -> Iterator[Path]:
    path = folder / "x.parquet"
    room = pages.METADATA_BYTES - 100
    chunk = b"\x26\x00\x1c\x15\x00\x19\x05\x19\x08\x15\x00\x16\x00\x16\x00\x16\x00\x26\x00\x00\x00"
    for item in (b"\x26\x00\x00", chunk):  # columns of a row group, with and without their metadata
        group = b"\x19" + many(item, 65000) + b"\x16\x00\x16\x00\x00"
        yield parquet_file(path, SCHEMA + b"\x19" + many(group, room // len(group)) + b"\x00")
    yield parquet_file(path, SCHEMA + b"\x19" + many(b"\x19\x0c\x16\x00\x16\x00\x00", 65000) + b"\x00")
    yield parquet_file(path, b"\x15\x02\x19" + many(b"\x00", room))  # a schema of four million columns
    yield parquet_file(path, b"\x15\x02\x19\xfc" + varint(1 << 31) + b"\x00" * room)
    yield parquet_file(path, b"\x15\x02\x19" + many(b"\x18\x00\x00", 65000) + b"\x00" * room)
    yield parquet_file(path, b"\x1c" * room)
    yield parquet_file(path, b"\xf9" * room)
    yield from page_bombs(path)


def page_bombs(path: Path) -> Iterator[Path]:
    """A few hundred bytes of which pyarrow makes 800 MB: one row, which is said to hold two numbers."""
    count = 100_000_000
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(count)), count)
    pyarrow.parquet.write_table(pyarrow.table({"x": rows}), path, compression="zstd")
    content = path.read_bytes()
    schema = pyarrow.parquet.read_metadata(path).metadata[b"ARROW:schema"]
    smaller = base64.b64encode(base64.b64decode(schema).replace(struct.pack("<i", count), struct.pack("<i", 2)))
    assert smaller != schema
    yield written(path, content.replace(schema, smaller))


def read_parquet(path: Path) -> None:
    for _ in open_file(path, columns=["x"]).epoch(4, seed=0, step=0):
        pass


# --- What travels


def bundles(size: int) -> Iterator[bytes]:
    """Collateral whose parts are as long as they can be."""
    names = collateral.DcapCollateral.__slots__
    for document in jsons(size // 4):
        if b"\\" not in document:
            parts = dict.fromkeys(names, "00") | {"tcb_info": document.decode(), "qe_identity": document.decode()}
            yield json.dumps(parts, ensure_ascii=False).encode()[:size]
    chain = "-----BEGIN CERTIFICATE-----AAAA" * (size // 80)
    for text in (chain, "-----BEGIN CERTIFICATE-----" + "A" * (size // 2), " " * (size // 2)):
        yield json.dumps(dict.fromkeys(names, "00") | {"tcb_info_issuer_chain": text}).encode()


def read_bundle(data: bytes) -> None:
    bundle = collateral.parse_bundle(data)
    for read in (expiry, Published.read):
        try:
            read(bundle)
        except CloisterError:
            continue


def read_answer(data: bytes) -> None:
    pccs._signed(Document("https://pccs.example", data, {}), "tcbInfo")


def read_chain(text: bytes) -> None:
    document = Document("https://pccs.example", b"", {"tcb-info-issuer-chain": text.decode()})
    pccs._chain(document, "TCB-Info-Issuer-Chain")


def read_messages(data: bytes) -> None:
    """A header, as each kind of message that there is."""
    for kind in Kind:
        for among in (messages.VOCABULARY, sessions.VOCABULARY):
            try:
                messages.decode(kind, data, among=among)
            except CloisterError:
                continue


def read_owners_answer(data: bytes) -> None:
    """As an owner's answer to a round: it is signed, whatever it is."""
    (signature,) = chains.sign_all(answers.ANSWER + hashlib.sha256(data).digest(), ["bob"])
    answers.read(SignedAnswer(data, signature), charter=chains.charter())


def jobs(_: Path) -> Iterator[bytes]:
    """A million tensors in a model, among others."""
    part = msgpack_part()
    head = b"\x96\xae" + job.FORMAT.encode() + b"\xc4\x20" + bytes(32) + b"\xa0\xc4\x00\x93\xdd"
    count = (JOB_BYTES - 100) // len(part)
    yield head + count.to_bytes(4) + part * count
    yield from msgpacks(JOB_BYTES, head=head[:-1])


def msgpack_part() -> bytes:
    return msgspec.msgpack.encode(job.Part("a", job.TensorSpec("bool", ()), False))


def plans(_: Path) -> Iterator[bytes]:
    head = b"\x9a\xafcloister plan 2"
    yield from msgpacks(encoding.PLAN_BYTES, head=head)
    line = b"\x94\xa0\x90\x80\x00"
    yield head + b"\x90\x90\x91\x93\xa1x\xa7float32\x90\x90\xdd" + (65536).to_bytes(4) + line * 65536


def plans_of_jobs(_: Path) -> Iterator[bytes]:
    """Of which the beginning and the end are read: what is in between may be anything."""
    head, held = b"\x9a\xafcloister plan 2", msgspec.msgpack.encode([["w"], "float32", [1] * 16, True])
    yield from msgpacks(encoding.PLAN_BYTES, head=head)
    count = (encoding.PLAN_BYTES - 100) // len(held)
    yield head + b"\xdd" + count.to_bytes(4) + held * count
    yield from msgpacks(encoding.PLAN_BYTES, head=head + b"\x90\x90")


def studies(_: Path) -> Iterator[bytes]:
    """Of a file that may be long, what is many or long where a first model's values alone may be."""
    size, head = 1 << 26, msgspec.msgpack.encode((study_file.FORMAT, 0, 0, 0, 0, 0))[:-5]
    yield filled(b"x", size, before=head + b"\xdb" + (size - 64).to_bytes(4))
    tensors = b"\xa0\xa0\x90\x93"
    for before in (b"", b"\xa0\xa0", tensors[:-1], tensors, tensors + b"\x90", tensors + b"\x90\x90"):
        yield from msgpacks(size, head=head + before)
    yield filled(msgpack_part(), size, before=head + tensors + b"\xdd" + (2 * INPUTS).to_bytes(4))
    yield huge_recipe()


def huge_recipe() -> bytes:
    """A study whose charter draws four billion values."""
    drawn = '[[first_model]]\ntensor = "w"\ndtype = "float32"\nshape = [4294967296]\ndraw = "constant"\nvalue = 1.0\n'
    text = charters.text(first_model=f'"{bytes(32).hex()}"') + drawn
    part = job.Part("w", job.TensorSpec("float32", (1 << 32,)), True)
    return study_file.encode(text="", charter=text, plans=(), tensors=job.Tensors((part,)), vector=None)


def over(size: int) -> Callable[[Path], bytes]:
    return lambda _: bytes(size + 1)


def file_over(name: str, size: int) -> Callable[[Path], Path]:
    return lambda folder: holes(folder / name, size + 1)


def of(inputs: Callable[[int], Iterator[Any]], size: int) -> Callable[[Path], Iterator[Any]]:
    return lambda _: inputs(size)


def texts(_: Path) -> Iterator[str]:
    return tomls()


def too_long(_: Path) -> str:
    return "#" * (TEXT_BYTES + 1)


CASES: Final[dict[str, Case]] = {
    "toml": Case(lambda text: load(text, source="it"), texts, too_long),
    "charter": Case(parse_charter, texts, too_long),
    "encoded charter": Case(decode_charter, of(cbors, ENCODED_BYTES), over(ENCODED_BYTES)),
    "node.toml": Case(lambda text: config.parse(text, folder=Path("/nowhere")), texts, too_long),
    "digest of a configuration": Case(configuration_digest, texts, too_long),
    "signature": Case(signatures.decode, lambda _: tomls(4096), lambda _: "#" * 4097),
    "file of text": Case(
        lambda path: files.read_text(path, limit=TEXT_BYTES),
        lambda folder: iter([written(folder / "text", b"\xff" * TEXT_BYTES)]),
        file_over("text", TEXT_BYTES),
    ),
    "identity": Case(identity.Identity.read, identities, file_over("me.key", identity.FILE_BYTES)),
    "sealed file": Case(
        lambda path: sealed_file.open_sealed(path, key=bytes(32)),
        lambda folder: iter([holes(folder / "x.sealed", 1 << 40, start=b"cloister sealed\x01")]),
        None,
    ),
    "npy": Case(
        lambda data: headers.read_npy(io.BytesIO(data)), npys, lambda _: npy(bytes(headers.NPY_HEADER_BYTES + 1))
    ),
    "npz": Case(read_npz, zips, None),
    "npz, at a node": Case(lambda path: data_files._inspect(path, "x"), zips, None),
    "safetensors": Case(
        lambda path: open_file(path, columns=["x"]),
        safetensors,
        lambda folder: holes(folder / "x.safetensors", 1 << 40, start=(headers.HEADER_BYTES + 1).to_bytes(8, "little")),
    ),
    "safetensors of a run": Case(
        headers.check_safetensors,
        safetensors,
        lambda folder: holes(folder / "x.safetensors", 1 << 40, start=(headers.HEADER_BYTES + 1).to_bytes(8, "little")),
    ),
    "weights": Case(
        Weights,
        weights,
        lambda folder: holes(
            folder / "x.safetensors", 1 << 40, start=(headers.WEIGHTS_HEADER_BYTES + 1).to_bytes(8, "little")
        ),
        times=40,
    ),
    "parquet": Case(
        read_parquet,
        parquets,
        lambda folder: holes(
            folder / "x.parquet", 1 << 40, end=(pages.METADATA_BYTES + 1).to_bytes(4, "little") + b"PAR1"
        ),
        times=40,
    ),
    "chain": Case(
        lambda data: list(jsonl.read_lines([data])), of(jsons, jsonl.LINE_BYTES), over(jsonl.LINE_BYTES), times=40
    ),
    "record": Case(records.decode, of(msgpacks, RECORD_BYTES), over(RECORD_BYTES)),
    "cohort": Case(records.decode_cohort, of(msgpacks, records.ROUND_BODY_BYTES), None),
    "answer": Case(read_owners_answer, of(msgpacks, ANSWER_BYTES), None),
    "job": Case(job.decode, jobs, over(JOB_BYTES), times=8),
    "study file": Case(study_file.decode, studies, over(study_file.FILE_BYTES), times=4),
    "plan": Case(encoding.decode, plans, over(encoding.PLAN_BYTES), times=40),
    "what a plan learns": Case(learned, plans_of_jobs, None, times=40),
    "messages": Case(read_messages, of(msgpacks, HEADER_BYTES), None),
    "evidence": Case(received.decode, of(msgpacks, EVIDENCE_BYTES), over(EVIDENCE_BYTES)),
    "transcript": Case(Transcript.decode, of(cbors, TRANSCRIPT_BYTES), over(TRANSCRIPT_BYTES)),
    "cbor": Case(lambda data: ratls.cbor.decode(data, what="it"), of(cbors, ratls.CERTIFICATE_BYTES), None),
    "der": Case(der.elements, of(ders, der.DER_BYTES), over(der.DER_BYTES)),
    "ra-tls": Case(ratls.unwrap, of(ders, ratls.CERTIFICATE_BYTES), over(ratls.CERTIFICATE_BYTES)),
    "amd's certificates": Case(snp_certificates.Certificate.parse, of(ders, der.DER_BYTES), over(der.DER_BYTES)),
    "amd's revocations": Case(snp_certificates.RevocationList.parse, of(ders, der.DER_BYTES), over(der.DER_BYTES)),
    "peer's certificate": Case(certificates.fingerprint_of, of(ders, 100 << 10), None),
    "quote": Case(
        Quote.parse,
        lambda _: iter([filled(b"\xff", evidence.QUOTE_BYTES, before=b"\3\0\2\0\0\0\0\0")]),
        over(evidence.QUOTE_BYTES),
    ),
    "attest show": Case(
        lambda data: inspect.unverified(inspect.recognise(data)),
        lambda _: (
            filled(piece, size, before=before)
            for piece, size, before in (
                (b"\xff", evidence.QUOTE_BYTES, b"\3\0\2\0\0\0\0\0"),
                (b" ", EVIDENCE_BYTES, b""),
                (b"-----BEGIN CERTIFICATE-----", EVIDENCE_BYTES, b""),
                (b"A", EVIDENCE_BYTES, b"-----BEGIN CERTIFICATE-----"),
                (b"\x30\x80", EVIDENCE_BYTES, b"\x30"),
                (b"\x91", EVIDENCE_BYTES, b"\x92"),
            )
        ),
        over(EVIDENCE_BYTES),
    ),
    "collateral": Case(read_bundle, of(bundles, collateral.BUNDLE_BYTES), over(collateral.BUNDLE_BYTES), times=60),
    "collateral's form": Case(
        collateral.parse_bundle, of(jsons, collateral.BUNDLE_BYTES), over(collateral.BUNDLE_BYTES), times=60
    ),
    "pccs": Case(read_answer, of(jsons, 1 << 18), None),
    "pccs' chain": Case(
        read_chain,
        lambda _: iter(
            [b"%25" * 20000, b"-----BEGIN CERTIFICATE-----" * 2400, b"-----BEGIN CERTIFICATE-----" + b"A" * 65000]
        ),
        None,
    ),
    "address": Case(
        peers.parse_address, lambda _: iter(["[" * 65536, ":" * 65536, "a" * 65536 + ":1", "1:" + "9" * 65536]), None
    ),
}


def run(name: str, folder: Path) -> dict[str, Any]:
    """What the worst of a case takes: seconds of CPU, bytes of memory beyond what is there, and what it ended with."""
    case = CASES[name]
    told: dict[str, Any] = {"inputs": 0, "cpu_s": 0.0, "memory": 0, "faults": []}
    for given in case.worst(folder):
        size = given.stat().st_size if isinstance(given, Path) else len(given)
        found = in_fork(lambda given=given: measured(case.read, given))
        told["inputs"] += 1
        told["cpu_s"] = max(told["cpu_s"], found["cpu_s"])
        told["memory"] = max(told["memory"], found["memory"] - case.times * size)
        told["faults"] += [f"input {told['inputs']}: {found['fault']}"] if found["fault"] else []
    told["over"] = in_fork(lambda: measured(case.read, case.over(folder))) if case.over else None
    return told


def measured(read: Callable[[Any], object], given: Any) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    refused, fault = "", ""
    try:
        read(given)
    except (CloisterError, OSError, ValueError, zipfile.BadZipFile) as refusal:
        refused = f"{type(refusal).__name__}: {str(refusal)[:400]}"
    except BaseException as other:  # noqa: BLE001  what no caller of the parser waits for
        fault = f"{type(other).__name__}: {str(other)[:400]}"
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu_s, "memory": (after.ru_maxrss - before.ru_maxrss) << 10, "refused": refused, "fault": fault}


def in_fork(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``measure`` gives in a fork of this process, which ends after ``CPU_S`` seconds of CPU."""
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        limit = MEMORY_BYTES * 48
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.write(writing_end, json.dumps(measure()).encode())
        os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end, "rb") as told:
        data = told.read()
    _, status = os.waitpid(child, 0)
    if not data:
        fault = f"ended with {os.waitstatus_to_exitcode(status)}"
        return {"cpu_s": float(CPU_S), "memory": 0, "refused": "", "fault": fault}
    found: dict[str, Any] = json.loads(data)
    return found


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(line.strip(), Path(sys.argv[1]))), flush=True)
