"""Whether an answer is whole and for what was asked: the same places as in what real hardware made."""

from __future__ import annotations

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.attester.answers import check_answer, check_asked
from cloister.errors import EvidenceError, NoTeeError
from tests.attest.genuine import VECTORS, dcap, dcap_names, needs_vectors, snp_names
from tests.attest.tsmfs import sgx_quote, snp_report, tdx_quote

ASKED = bytes(range(64))
SHAPES = [
    ("sgx", sgx_quote(ASKED)),
    ("tdx", tdx_quote(ASKED)),
    ("tdx", tdx_quote(ASKED, version=5)),
    ("snp", snp_report(ASKED)),
]


@pytest.mark.parametrize(("tee", "quote"), SHAPES)
def test_a_whole_answer_to_what_was_asked(tee, quote):
    check_answer(quote, tee=tee, report_data=ASKED)


@pytest.mark.parametrize(("tee", "quote"), SHAPES)
def test_an_answer_to_something_else(tee, quote):
    for number in range(64):
        other = ASKED[:number] + bytes([ASKED[number] ^ 1]) + ASKED[number + 1 :]
        with pytest.raises(NoTeeError, match="other report data"):
            check_answer(quote, tee=tee, report_data=other)


@pytest.mark.parametrize(("tee", "quote"), SHAPES)
def test_an_answer_that_is_cut_off_or_goes_on(tee, quote):
    for length in range(len(quote)):
        with pytest.raises(NoTeeError):
            check_answer(quote[:length], tee=tee, report_data=ASKED)
    with pytest.raises(NoTeeError):
        check_answer(quote + b"\0", tee=tee, report_data=ASKED)


@pytest.mark.parametrize(("tee", "quote"), SHAPES)
def test_one_kind_is_not_another(tee, quote):
    for other in {"sgx", "tdx", "snp"} - {tee}:
        with pytest.raises(NoTeeError):
            check_answer(quote, tee=other, report_data=ASKED)


@given(st.binary(max_size=1300), st.sampled_from(["sgx", "tdx", "snp"]))
def test_noise_is_refused(noise, tee):
    with pytest.raises(NoTeeError):
        check_answer(noise, tee=tee, report_data=ASKED)


def test_a_size_that_overflows_is_refused():
    quote = bytearray(tdx_quote(ASKED, version=5))
    quote[50:54] = b"\xff" * 4
    with pytest.raises(NoTeeError):
        check_answer(bytes(quote), tee="tdx", report_data=ASKED)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_what_is_asked_has_64_bytes(size):
    check_asked(ASKED)
    with pytest.raises(EvidenceError, match="64 bytes"):
        check_asked(bytes(size))


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
def test_genuine_quotes_have_it_where_it_is_looked_for(name):
    quote = dcap(name).quote
    report_data = bytes(dcap_qvl.Quote.parse(quote).report.report_data)  # as another implementation reads it
    check_answer(quote, tee="sgx" if name.startswith("sgx") else "tdx", report_data=report_data)


@needs_vectors
@pytest.mark.parametrize("name", snp_names())
def test_genuine_reports_have_the_length_that_is_looked_for(name):
    report = (VECTORS / "snp" / name / "report.bin").read_bytes()
    check_answer(report, tee="snp", report_data=report[0x50:0x90])
