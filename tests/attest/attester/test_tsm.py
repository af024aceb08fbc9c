"""The attester for TDX and SEV-SNP guests, with a stand-in for configfs-tsm that the kernel really mounts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloister.attest.attester.tsm import ATTEMPTS, TsmAttester
from cloister.errors import EvidenceError, NoTeeError
from tests.attest.attester.test_certificates import ARK, ASK, VCEK, VLEK
from tests.attest.fusefs import needs_fuse
from tests.attest.genuine import VECTORS, needs_vectors, snp_names
from tests.attest.tsmfs import ConfigfsTsm, certificate_table, refuse, sgx_quote, snp_report, tdx_quote

pytestmark = needs_fuse

ASKED = bytes(range(64))
FILES = ("report.bin", "vek.der", "ask.der", "ark.der")
TABLE = certificate_table((VCEK, b"vcek"), (ASK, b"ask"), (ARK, b"ark"))


@pytest.fixture
def mount(tmp_path):
    with ExitStack() as mounts:
        yield lambda kernel: mounts.enter_context(kernel.mounted(tmp_path))


def snp(**more) -> ConfigfsTsm:
    return ConfigfsTsm(**{"tee": snp_report, "provider": "sev_guest", "table": TABLE, **more})


def write_from_elsewhere(path, data: bytes) -> None:
    """Another process writes ``data``."""
    subprocess.run([sys.executable, "-c", f"open({str(path)!r}, 'wb').write({data!r})"], check=True)


# --- What it gets


@pytest.mark.parametrize("version", [4, 5])
def test_a_tdx_quote_for_what_was_asked(mount, version):
    kernel = ConfigfsTsm(tee=lambda data: tdx_quote(data, version=version))
    evidence = TsmAttester.start(mount(kernel)).evidence(ASKED)
    assert (evidence.tee, evidence.quote) == ("tdx", tdx_quote(ASKED, version=version))
    assert evidence.endorsements == ()


def test_an_snp_report_with_the_hosts_certificates(mount):
    evidence = TsmAttester.start(mount(snp())).evidence(ASKED)
    assert (evidence.tee, evidence.quote) == ("snp", snp_report(ASKED))
    assert evidence.endorsements == (b"vcek", b"ask", b"ark")


@pytest.mark.parametrize("kernel", [snp(table=b""), snp(table=None), snp(without=("auxblob",))])
def test_a_host_without_certificates(mount, kernel):
    evidence = TsmAttester.start(mount(kernel)).evidence(ASKED)
    assert (evidence.quote, evidence.endorsements) == (snp_report(ASKED), ())


@needs_vectors
@pytest.mark.parametrize("name", snp_names())
def test_genuine_reports_and_certificates_arrive_whole(mount, name):
    report, vek, ask, ark = ((VECTORS / "snp" / name / file).read_bytes() for file in FILES)
    table = certificate_table((VLEK if "VLEK" in name else VCEK, vek), (ASK, ask), (ARK, ark))
    evidence = TsmAttester.start(mount(snp(tee=lambda _data: report, table=table))).evidence(report[0x50:0x90])
    assert (evidence.quote, evidence.endorsements) == (report, (vek, ask, ark))


def test_the_privilege_level_is_asked_for_and_counted(mount):
    kernel = snp(during={"outblob": lambda _path, entry: levels.append(entry.privlevel)})
    levels: list[int] = []
    where = mount(kernel)
    for level in (2, 3, None):
        assert TsmAttester.start(where, privilege=level).evidence(ASKED).quote == snp_report(ASKED)
    assert levels == [2, 3, 0]


@pytest.mark.parametrize("first", [0, 1, 2**64 - 2, 2**64 - 3])
def test_counting_starts_anywhere(mount, first):
    assert TsmAttester.start(mount(ConfigfsTsm(first=first))).evidence(ASKED).quote == tdx_quote(ASKED)


# --- Others who use it


@pytest.mark.slow
def test_threads_get_their_own(mount):
    kernel = ConfigfsTsm()
    where = mount(kernel)
    attester = TsmAttester.start(where)
    asked = [bytes([number]) * 64 for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda data: attester.evidence(data).quote, asked))
    assert found == [tdx_quote(data) for data in asked]
    assert len(set(kernel.made)) == 61
    assert os.listdir(where) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outblob", "auxblob", "provider"])
def test_another_process_that_writes_to_the_same_request(mount, name):
    once: list[bool] = []

    def interfere(path, entry) -> None:
        if entry.inblob and not once:
            once.append(True)
            write_from_elsewhere(path / "inblob", bytes(64))

    kernel = snp(during={name: interfere})
    where = mount(kernel)
    evidence = TsmAttester.start(where).evidence(ASKED)
    assert evidence.quote == snp_report(ASKED), "the answer to the other process was thrown away"
    assert len(kernel.made) == 3, "one to look which TEE it is, a disturbed one, and a new one"
    assert os.listdir(where) == []


def test_the_same_bytes_from_another_process_count_as_interference_too(mount):
    kernel = ConfigfsTsm(during={"outblob": lambda path, _entry: write_from_elsewhere(path / "inblob", ASKED)})
    where = mount(kernel)
    attester = TsmAttester.start(where)
    with pytest.raises(NoTeeError, match=f"{ATTEMPTS} requests were all disturbed"):
        attester.evidence(ASKED)
    assert len(kernel.made) == 1 + ATTEMPTS
    assert os.listdir(where) == []


def test_a_write_that_the_kernel_dropped_in_silence(mount):
    kernel = ConfigfsTsm()

    def fill(_path, entry) -> None:  # as after 2^64 - 1 writes without a read: EBUSY, which close(2) does not tell
        if entry.written == entry.answered:
            entry.answered = entry.written + 1

    kernel.during["generation"] = fill
    attester = TsmAttester.start(mount(kernel))
    with pytest.raises(NoTeeError, match="Invalid argument"):  # nothing was asked, so there is no answer
        attester.evidence(ASKED)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EWOULDBLOCK])
def test_a_busy_tee_is_asked_again_and_not_for_ever(mount, number):
    left = [2]

    def busy(_path, _entry) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise refuse(number)

    kernel = ConfigfsTsm(during={"outblob": busy})
    where = mount(kernel)
    attester = TsmAttester.start(where)
    assert attester.evidence(ASKED).quote == tdx_quote(ASKED)
    left[0] = 1000
    with pytest.raises(NoTeeError, match="busy"):
        attester.evidence(ASKED)
    assert left[0] == 1000 - ATTEMPTS
    assert os.listdir(where) == []


# --- What is refused


def refusal_of(entry: Path, size: int) -> int | None:
    """Which error whoever writes ``size`` bytes gets: at the write, or when the answer is read."""
    try:
        (entry / "inblob").write_bytes(bytes(size))
        (entry / "outblob").read_bytes()
    except OSError as fault:
        return fault.errno
    return None


@pytest.mark.parametrize(("size", "number"), [(63, errno.EINVAL), (1, errno.EINVAL), (65, errno.EFBIG)])
def test_the_kernel_refuses_other_sizes_and_they_never_reach_it(mount, size, number):
    kernel = ConfigfsTsm()
    where = mount(kernel)
    (where / "mine").mkdir()
    assert refusal_of(where / "mine", size) == number
    (where / "mine").rmdir()

    attester = TsmAttester.start(where)
    with pytest.raises(EvidenceError, match="64 bytes"):
        attester.evidence(bytes(size))
    assert len(kernel.made) == 2


@pytest.mark.parametrize("level", [-1, 0, 4])
def test_a_privilege_level_that_is_refused(mount, level):
    where = mount(snp(floor=1))
    with pytest.raises(NoTeeError, match="privlevel: Invalid argument"):
        TsmAttester.start(where, privilege=level).evidence(ASKED)
    assert os.listdir(where) == []


def test_a_privilege_level_where_there_are_none(mount):
    with pytest.raises(NoTeeError, match=r"privlevel: No such file.*does not offer"):
        TsmAttester.start(mount(ConfigfsTsm()), privilege=0).evidence(ASKED)


@pytest.mark.parametrize("name", ["generation", "inblob", "outblob"])
def test_a_missing_file_is_named(mount, name):
    where = mount(ConfigfsTsm(without=(name,)))
    attester = TsmAttester.start(where)
    with pytest.raises(NoTeeError, match=f"/{name}: No such file"):
        attester.evidence(ASKED)
    assert os.listdir(where) == []


def test_without_a_name_there_is_no_tee(mount):
    where = mount(ConfigfsTsm(without=("provider",)))
    with pytest.raises(NoTeeError, match="/provider: No such file"):
        TsmAttester.start(where)
    assert os.listdir(where) == []


@pytest.mark.parametrize("provider", ["arm_cca_guest", "tdx_guest2", "", "TDX_GUEST", "x" * 63])
def test_an_unknown_tee_is_refused(mount, provider):
    with pytest.raises(NoTeeError, match="not known here"):
        TsmAttester.start(mount(ConfigfsTsm(provider=provider)))


def test_a_kernel_without_a_tee(mount):
    with pytest.raises(NoTeeError, match="no TDX or SEV-SNP guest"):
        TsmAttester.start(mount(ConfigfsTsm(provider=None)))


def test_no_configfs(tmp_path):
    with pytest.raises(NoTeeError, match=r"missing/.*configfs is not mounted"):
        TsmAttester.start(tmp_path / "missing")


def test_a_tee_that_becomes_another(mount):
    kernel = ConfigfsTsm()
    attester = TsmAttester.start(mount(kernel))
    kernel.provider = "sev_guest"
    with pytest.raises(NoTeeError, match="spoke for tdx at first and now for snp"):
        attester.evidence(ASKED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (ConfigfsTsm(tee=lambda _data: b""), "cut off"),
        (ConfigfsTsm(tee=lambda data: tdx_quote(data)[:-1]), "by its own count"),
        (ConfigfsTsm(tee=lambda data: tdx_quote(data)[:600]), "cut off"),
        (ConfigfsTsm(tee=lambda data: tdx_quote(data[::-1])), "other report data"),
        (ConfigfsTsm(tee=lambda data: tdx_quote(data[::-1], version=5)), "other report data"),
        (ConfigfsTsm(tee=sgx_quote), "no tdx quote"),
        (ConfigfsTsm(tee=lambda data: tdx_quote(data) + bytes(1 << 15)), "more than 32768 bytes"),
        (snp(tee=lambda data: snp_report(data)[:-1]), "1184 bytes"),
        (snp(tee=lambda data: snp_report(data[::-1])), "other report data"),
        (snp(tee=tdx_quote), "1184 bytes"),
        (snp(table=TABLE[:30]), "certificate table"),
        (snp(table=bytes(1 << 17)), "more than 65536 bytes"),
    ],
)
def test_an_answer_that_is_none(mount, kernel, why):
    where = mount(kernel)
    attester = TsmAttester.start(where)
    with pytest.raises(NoTeeError, match=why):
        attester.evidence(ASKED)
    assert os.listdir(where) == []


def test_a_counter_that_does_not_count(mount):
    where = mount(ConfigfsTsm(first="many"))
    with pytest.raises(NoTeeError, match="no numbers"):
        TsmAttester.start(where).evidence(ASKED)
