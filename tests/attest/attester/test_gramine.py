"""The attester for Gramine, with a stand-in for ``/dev/attestation`` that the kernel really mounts."""

from __future__ import annotations

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from cloister.attest.attester.gramine import GramineAttester
from cloister.errors import EvidenceError, NoTeeError
from tests.attest.fusefs import needs_fuse
from tests.attest.tsmfs import Gramine, refuse, sgx_quote, tdx_quote

pytestmark = needs_fuse

ASKED = bytes(range(64))


@pytest.fixture
def mount(tmp_path):
    with ExitStack() as mounts:
        yield lambda gramine: mounts.enter_context(gramine.mounted(tmp_path))


def test_a_quote_for_what_was_asked(mount):
    device = mount(Gramine())
    evidence = GramineAttester.start(device).evidence(ASKED)
    assert (evidence.tee, evidence.quote, evidence.endorsements) == ("sgx", sgx_quote(ASKED), ())


def test_threads_get_their_own(mount):
    device = mount(Gramine())
    attesters = [GramineAttester.start(device) for _ in range(3)]  # the lock belongs to the process, not to them
    asked = [bytes([number]) * 64 for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda data: attesters[data[0] % 3].evidence(data).quote, asked))
    assert found == [sgx_quote(data) for data in asked]


def test_a_write_in_between_is_noticed(mount, tmp_path):
    interloper = f"open({str(tmp_path / 'user_report_data')!r}, 'wb').write(bytes(64))"
    gramine = Gramine(during={"quote": lambda: subprocess.run([sys.executable, "-c", interloper], check=True)})
    attester = GramineAttester.start(mount(gramine))
    with pytest.raises(NoTeeError, match="other report data"):
        attester.evidence(ASKED)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_what_is_not_64_bytes_never_reaches_gramine(mount, size):
    gramine = Gramine()
    attester = GramineAttester.start(mount(gramine))
    with pytest.raises(EvidenceError, match="64 bytes"):
        attester.evidence(bytes(size))
    assert gramine.quotes == 0, "it would have filled it up with zeros, or cut it"


def test_without_sgx_there_is_none(mount):
    with pytest.raises(NoTeeError, match=r'attestation_type: No such file.*remote_attestation = "dcap".*gramine-sgx'):
        GramineAttester.start(mount(Gramine(kind=None)))


@pytest.mark.parametrize("kind", ["none", "epid", "", "dcapx", "\N{SNOWMAN}"])
def test_another_kind_of_attestation_is_refused(mount, kind):
    with pytest.raises(NoTeeError, match=r'"dcap" is needed'):
        GramineAttester.start(mount(Gramine(kind=kind)))


@pytest.mark.parametrize("name", ["quote", "user_report_data"])
def test_a_missing_file_is_named(mount, name):
    attester = GramineAttester.start(mount(Gramine(without=(name,))))
    with pytest.raises(NoTeeError, match=rf"/{name}: No such file.*aesmd"):
        attester.evidence(ASKED)


def test_a_quoting_service_that_is_down(mount):
    def down() -> None:
        raise refuse(errno.EIO)

    attester = GramineAttester.start(mount(Gramine(during={"quote": down})))
    with pytest.raises(NoTeeError, match=r"Input/output error.*aesmd"):
        attester.evidence(ASKED)


@pytest.mark.parametrize(
    ("tee", "why"),
    [
        (lambda _data: b"", "cut off"),
        (lambda data: sgx_quote(data)[:-1], "by its own count"),
        (lambda data: sgx_quote(data)[:100], "cut off"),
        (lambda data: sgx_quote(data) + b"\0", "by its own count"),
        (lambda data: sgx_quote(data[::-1]), "other report data"),
        (tdx_quote, "no sgx quote"),
        (lambda data: sgx_quote(data) + bytes(1 << 16), "more than 32768 bytes"),
    ],
)
def test_an_answer_that_is_none(mount, tee, why):
    attester = GramineAttester.start(mount(Gramine(tee=tee)))
    with pytest.raises(NoTeeError, match=why):
        attester.evidence(ASKED)
