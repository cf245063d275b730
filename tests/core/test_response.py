"""The acceptance contract: which bodies may be written, where, and what follows from everything else (I2)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastidm.core.response import (
    MAX_OFFSET,
    Accepted,
    Again,
    Content,
    Head,
    RangeIgnored,
    Redirected,
    Refused,
    Verdict,
    WithoutRange,
    changed,
    content_length,
    judge,
    parse_content_range,
    parse_unsatisfied,
    promised_digest,
    validators,
    vouched,
)
from fastidm.errors import (
    AuthError,
    BusyError,
    ContentChangedError,
    FastidmError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RedirectError,
    RefusedError,
)

UTC = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
DATE, LATER = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"
ETAG = '"v1"'
PINNED = Content(1000, ETAG, DATE)


def head(status: int, *repeated: tuple[str, str], **fields: str) -> Head:
    return Head(status, (*((name.replace("_", "-"), value) for name, value in fields.items()), *repeated))


def part(span: str = "bytes 500-999/1000", *repeated: tuple[str, str], **fields: str) -> Head:
    return head(206, *repeated, **({"content_range": span, "etag": ETAG, "last_modified": DATE} | fields))


def verdict(head: Head, first: int | None = 500, last: int | None = 999, pinned: Content | None = PINNED) -> Verdict:
    return judge(head, first, last, pinned, UTC)


def first_verdict(head: Head) -> Verdict:
    """On the answer to the first request of a task: `Range: bytes=0-`."""
    return judge(head, 0, None, None, UTC)


def refusal(verdict: Verdict) -> type[FastidmError]:
    assert isinstance(verdict, Refused), verdict
    return type(verdict.error)


# ---------------------------------------------------------------------- numbers and fields

size = st.integers(0, MAX_OFFSET)


@given(size, size, size)
def test_every_content_range_that_makes_sense_is_read_back(a: int, b: int, c: int) -> None:
    first, last, total = sorted((a, b, c))
    total += total == last
    if total <= MAX_OFFSET:
        assert parse_content_range(f"bytes {first}-{last}/{total}") == (first, last, total)
    assert parse_content_range(f"bytes {first}-{last}/*") == (first, last, None)


@given(size, size, size)
def test_a_content_range_that_contradicts_itself_is_none(first: int, last: int, total: int) -> None:
    if not first <= last < total:
        assert parse_content_range(f"bytes {first}-{last}/{total}") is None


near_miss = st.text(alphabet="bytes 0123456789-/*=+,;\t_x٣²", max_size=24)


@given(near_miss | st.text(max_size=30))
@example("bytes 0-9/١٠")
def test_any_text_is_read_strictly_or_not_at_all(text: str) -> None:
    span = parse_content_range(text)
    if span is not None:
        first, last, total = span
        unit, numbers = text.split(None, 1)
        assert unit.lower() == "bytes" and numbers.isascii()
        assert set(numbers.strip()) <= set("0123456789-/*")
        assert 0 <= first <= last <= MAX_OFFSET and (total is None or last < total <= MAX_OFFSET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes 0-9",
        "bytes */1000",
        "bytes 0-/1000",
        "bytes -9/1000",
        "bytes 9-0/1000",
        "bytes 0-1000/1000",
        "bytes +0-9/1000",
        "bytes 0--9/1000",
        "bytes 0 - 9/1000",
        "bytes 0-9/1000, bytes 20-29/1000",
        "bytes 0-9,20-29/1000",
        "bytes 0-9/1_000",
        "bytes 0-9/0x10",
        "bytes 0-9/1000x",
        "bytes 0-9/99999999999999999999",
        f"bytes 0-9/{MAX_OFFSET + 1}",
        "bytes=0-9/1000",
        "items 0-9/1000",
        "0-9/1000",
    ],
)
def test_what_is_no_content_range_is_none(text: str) -> None:
    assert parse_content_range(text) is None


@given(near_miss | st.text(max_size=30))
def test_an_unsatisfied_range_is_read_strictly_or_not_at_all(text: str) -> None:
    total = parse_unsatisfied(text)
    if total is not None:
        unit, number = text.strip().split("*/")
        assert unit.strip().lower() == "bytes" and number.isascii() and int(number) == total <= MAX_OFFSET


@given(size)
def test_the_total_of_an_unsatisfied_range_is_read_back(total: int) -> None:
    assert parse_unsatisfied(f"bytes */{total}") == total


@given(size)
def test_a_content_length_is_read_back(length: int) -> None:
    assert content_length(head(200, content_length=str(length))) == length


@pytest.mark.parametrize("text", ["-1", "+5", "12abc", "", "1.0", "1e3", "0x10", "5 5", "٥", "9" * 20, str(MAX_OFFSET + 1)])
def test_a_content_length_that_is_no_length_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        content_length(head(200, content_length=text))


def test_the_same_content_length_twice_is_one_length_but_two_different_ones_are_an_error() -> None:
    assert content_length(head(200, ("content-length", "5"), ("content-length", "5"))) == 5
    assert content_length(head(200, content_length="5, 5")) == 5
    for fields in ([("content-length", "5"), ("content-length", "6")], [("content-length", "5, 6")]):
        with pytest.raises(ValueError):
            content_length(head(200, *fields))


def test_a_chunked_body_has_no_length_whatever_content_length_says() -> None:
    assert content_length(head(200, content_length="100", transfer_encoding="chunked")) is None


def test_absurdly_long_validators_count_as_absent() -> None:
    assert validators(head(200, etag='"' + "x" * 1000 + '"', last_modified="y" * 100)) == (None, None)
    assert validators(head(200, etag=ETAG, last_modified=DATE)) == (ETAG, DATE)


# ---------------------------------------------------------------------- a part (206)


def test_the_part_that_was_asked_for_is_accepted_where_it_belongs() -> None:
    assert verdict(part()) == Accepted(500, 1000, PINNED, ranges=True)


def test_the_first_part_pins_the_file() -> None:
    expected = Accepted(0, 1000, PINNED, ranges=True)
    assert first_verdict(part("bytes 0-999/1000", content_length="1000")) == expected


def test_a_shorter_part_is_accepted_as_far_as_it_goes() -> None:
    assert verdict(part("bytes 500-599/1000")) == Accepted(500, 600, PINNED, ranges=True)


def test_a_longer_part_is_accepted_since_the_sink_stops_at_its_segments_end() -> None:
    assert verdict(part("bytes 500-999/1000"), last=599) == Accepted(500, 1000, PINNED, ranges=True)


@pytest.mark.parametrize("start", [0, 499, 501, 900])
def test_a_part_that_begins_elsewhere_is_never_written(start: int) -> None:
    assert refusal(verdict(part(f"bytes {start}-999/1000"))) is ProtocolError


@pytest.mark.parametrize("fields", [{}, {"content-range": "bytes */1000"}, {"content-range": "nonsense"}])
def test_a_part_without_a_usable_range_is_never_written(fields: dict[str, str]) -> None:
    answer = head(206, *fields.items(), content_length="500", etag=ETAG)
    assert refusal(verdict(answer)) is ProtocolError


def test_two_ranges_in_one_head_are_as_good_as_none_even_if_they_agree() -> None:
    assert refusal(verdict(part("bytes 500-999/1000", ("content-range", "bytes 500-999/1000")))) is ProtocolError


@pytest.mark.parametrize("total", [999, 1001, 10**12])
def test_a_part_of_a_file_of_another_size_means_that_the_file_has_changed(total: int) -> None:
    assert refusal(verdict(part(f"bytes 500-998/{total}"))) is ContentChangedError


def test_a_part_of_unknown_total_is_accepted_when_the_total_is_known_from_before() -> None:
    assert verdict(part("bytes 500-999/*")) == Accepted(500, 1000, PINNED, ranges=True)


def test_a_part_of_unknown_total_that_reaches_beyond_the_known_one_is_refused() -> None:
    assert refusal(verdict(part("bytes 500-1000/*"))) is ProtocolError


def test_a_first_part_of_unknown_total_leads_to_a_request_without_range() -> None:
    assert isinstance(first_verdict(part("bytes 0-999/*")), WithoutRange)


@pytest.mark.parametrize("span", ["bytes 1-999/1000", "nonsense", "bytes 0-1000/1000"])
def test_a_first_part_that_cannot_be_placed_leads_to_a_request_without_range(span: str) -> None:
    assert isinstance(first_verdict(part(span)), WithoutRange)


def test_a_part_that_nobody_asked_for_is_refused() -> None:
    assert refusal(verdict(part("bytes 0-999/1000"), None, None, PINNED)) is ProtocolError
    assert refusal(verdict(part("bytes 0-999/1000"), None, None, None)) is ProtocolError


@pytest.mark.parametrize("length", ["499", "501", "0"])
def test_length_and_range_that_contradict_each_other_are_refused(length: str) -> None:
    assert refusal(verdict(part(content_length=length))) is ProtocolError


# ---------------------------------------------------------------------- the whole file (200)


def test_the_whole_file_is_accepted_from_its_beginning_on() -> None:
    answer = head(200, content_length="1000", etag=ETAG, last_modified=DATE)
    for first in (0, None):
        assert judge(answer, first, None, None, UTC) == Accepted(0, 1000, PINNED, ranges=False)


def test_a_file_of_unknown_length_is_accepted_without_an_end() -> None:
    assert first_verdict(head(200, transfer_encoding="chunked")) == Accepted(0, None, Content(), ranges=False)


def test_an_empty_file_is_accepted_in_both_forms() -> None:
    assert first_verdict(head(200, content_length="0")) == Accepted(0, 0, Content(0), ranges=False)
    assert first_verdict(head(416, content_range="bytes */0")) == Accepted(0, 0, Content(0), ranges=False)


def test_the_whole_file_is_never_written_where_a_part_was_asked_for() -> None:
    answer = head(200, content_length="1000", etag=ETAG, last_modified=DATE)
    assert verdict(answer) == RangeIgnored(PINNED)


def test_another_whole_file_where_a_part_was_asked_for_means_a_change() -> None:
    assert refusal(verdict(head(200, content_length="1850"))) is ContentChangedError
    assert refusal(verdict(head(200, content_length="1850", content_type="text/html", etag='"2"'))) is ContentChangedError


@pytest.mark.parametrize("length", [{"content_length": "1850"}, {"transfer_encoding": "chunked"}])
@pytest.mark.parametrize("first", [None, 0, 500])
def test_a_page_in_place_of_a_known_file_is_a_portal_that_may_go_away(first: int | None, length: dict[str, str]) -> None:
    got = judge(head(200, content_type="Text/HTML; charset=utf-8", **length), first, None, PINNED, UTC)
    assert isinstance(got, Again) and isinstance(got.error, NetworkError) and "text/html" in got.error.message


def test_a_page_that_is_the_file_is_no_portal() -> None:
    page = head(200, content_type="text/html", content_length="1000")
    assert isinstance(judge(page, None, None, Content(1000), UTC), Accepted)
    assert isinstance(judge(page, None, None, None, UTC), Accepted)


def test_a_body_of_unknown_length_has_to_be_as_long_as_the_file_is_known_to_be() -> None:
    got = judge(head(200, transfer_encoding="chunked", etag=ETAG), None, None, PINNED, UTC)
    assert isinstance(got, Accepted) and got.stop == got.content.total == 1000


@given(st.sampled_from([200, 206]), st.integers(1, 999), st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 2000))
def test_an_accepted_body_begins_where_it_was_asked_for_and_ends_inside_the_file(
    status: int, first: int, start: int, end: int, total: int
) -> None:
    answer = head(status, content_range=f"bytes {start}-{end}/{total}")
    got = judge(answer, first, None, Content(1000), UTC)
    if isinstance(got, Accepted):
        assert status == 206 and got.start == start == first
        assert got.stop == end + 1 <= total == 1000


# ---------------------------------------------------------------------- bodies that cannot be the file's bytes


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x-gzip", "identity, gzip", "GZIP"])
@pytest.mark.parametrize("status", [200, 206])
def test_an_encoded_body_is_never_written(status: int, encoding: str) -> None:
    span = {"content_range": "bytes 0-999/1000"} if status == 206 else {}
    answer = head(status, content_encoding=encoding, etag=ETAG, content_length="1000", **span)
    assert not isinstance(first_verdict(answer), Accepted)
    assert not isinstance(judge(answer, 0, 999, PINNED, UTC), Accepted)


def test_an_encoded_whole_file_is_a_protocol_error() -> None:
    assert refusal(judge(head(200, content_encoding="gzip"), None, None, None, UTC)) is ProtocolError


def test_an_encoded_first_part_leads_to_a_request_without_range() -> None:
    answer = part("bytes 0-999/1000", content_encoding="gzip")
    assert isinstance(first_verdict(answer), WithoutRange)


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_the_encoding_identity_is_no_encoding(encoding: str) -> None:
    assert isinstance(verdict(part(content_encoding=encoding)), Accepted)


@pytest.mark.parametrize("kind", ["multipart/byteranges; boundary=X", "Multipart/ByteRanges;boundary=X"])
def test_several_parts_in_one_body_are_never_written(kind: str) -> None:
    assert refusal(verdict(part(content_type=kind))) is ProtocolError
    assert refusal(verdict(head(206, content_type=kind))) is ProtocolError


def test_a_first_answer_in_several_parts_leads_to_a_request_without_range() -> None:
    assert isinstance(first_verdict(head(206, content_type="multipart/byteranges; boundary=X")), WithoutRange)


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize("lengths", [["12abc"], ["-1"], ["500", "501"], ["500, 501"], ["9" * 20]])
def test_a_body_of_malformed_or_doubtful_length_is_never_written(status: int, lengths: list[str]) -> None:
    answer = head(status, *(("content-length", n) for n in lengths), content_range="bytes 0-999/1000")
    assert refusal(first_verdict(answer)) is ProtocolError
    assert refusal(judge(answer, 0, 999, PINNED, UTC)) is ProtocolError


# ---------------------------------------------------------------------- validators


@pytest.mark.parametrize(
    ("pinned", "seen"),
    [
        (None, Content(7)),
        (Content(), Content(7, ETAG, DATE)),
        (PINNED, PINNED),
        (PINNED, Content(1000)),
        (PINNED, Content(None, ETAG)),
        (PINNED, Content(1000, ETAG, LATER)),
        (PINNED, Content(1000, '"node2"', DATE)),
        (Content(1000, None, DATE), Content(1000, ETAG, DATE)),
    ],
)
def test_nothing_speaks_against_the_same_file(pinned: Content | None, seen: Content) -> None:
    assert changed(pinned, seen) is None


@pytest.mark.parametrize(
    ("pinned", "seen"),
    [
        (PINNED, Content(1001, ETAG, DATE)),
        (PINNED, Content(1000, '"v2"', LATER)),
        (PINNED, Content(1000, '"v2"')),
        (PINNED, Content(None, '"v2"', DATE)),
        (Content(1000, ETAG), Content(1000, '"v2"')),
        (Content(1000, ETAG), Content(1000, '"v2"', DATE)),
        (Content(1000, None, DATE), Content(1000, None, LATER)),
        (Content(1000, ETAG, DATE), Content(1000, None, LATER)),
    ],
)
def test_another_file_is_told_by_size_etag_or_date(pinned: Content, seen: Content) -> None:
    assert isinstance(changed(pinned, seen), ContentChangedError)


def test_each_node_of_a_cdn_may_have_its_own_etag_where_size_and_date_vouch_for_the_file() -> None:
    assert isinstance(verdict(part(etag='"node2"')), Accepted)
    assert refusal(verdict(part(etag='"v2"', last_modified=LATER))) is ContentChangedError


def test_to_vouch_for_a_file_takes_its_size_and_an_equal_validator() -> None:
    assert vouched(PINNED, PINNED)
    assert vouched(PINNED, Content(1000, '"node2"', DATE))
    assert vouched(Content(1000, ETAG), Content(1000, ETAG, DATE))
    for seen in (Content(1000), Content(None, ETAG, DATE), Content(1001, ETAG, DATE), Content(1000, '"v2"', LATER)):
        assert not vouched(PINNED, seen)
    assert not vouched(Content(1000), Content(1000))
    assert not vouched(Content(None, ETAG), Content(None, ETAG))


contents = st.builds(
    Content, st.none() | st.integers(0, 3), st.none() | st.sampled_from(["a", "b"]), st.none() | st.sampled_from([DATE, LATER])
)


@given(contents, contents)
@example(Content(None, "a", DATE), Content(7, "b", DATE))
def test_who_vouches_for_a_file_sees_no_change_and_who_sees_the_same_sees_none(pinned: Content, seen: Content) -> None:
    assert not (vouched(pinned, seen) and changed(pinned, seen))
    assert changed(pinned, pinned) is None
    assert (changed(pinned, seen) is None) == (changed(seen, pinned) is None)


# ---------------------------------------------------------------------- everything that is no body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_with_a_location_is_followed(status: int) -> None:
    assert first_verdict(head(status, location="/elsewhere")) == Redirected()


@pytest.mark.parametrize("answer", [head(302), head(302, location="")])
def test_a_redirect_to_nowhere_is_an_error(answer: Head) -> None:
    assert refusal(first_verdict(answer)) is RedirectError


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status: int) -> None:
    for got in (first_verdict(head(status)), verdict(head(status))):
        assert isinstance(got, Again) and isinstance(got.error, BusyError) and got.delay is None


@pytest.mark.parametrize(("text", "delay"), [("3", 3.0), ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0), (DATE, 0.0), ("soon", None)])
def test_a_busy_server_is_asked_again_when_it_says(text: str, delay: float | None) -> None:
    got = verdict(head(429, retry_after=text))
    assert isinstance(got, Again) and got.delay == delay


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AuthError),
        (407, AuthError),
        (404, NotFoundError),
        (410, NotFoundError),
        (402, RefusedError),
        (451, RefusedError),
        (505, RefusedError),
        (204, ProtocolError),
        (304, ProtocolError),
        (999, RefusedError),
        (0, ProtocolError),
    ],
)
def test_a_refusal_has_its_class(status: int, error: type[FastidmError]) -> None:
    assert refusal(first_verdict(head(status))) is error
    assert refusal(verdict(head(status))) is error


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_a_refusal_that_a_range_may_have_caused_is_worth_one_request_without_it(status: int) -> None:
    got = first_verdict(head(status))
    assert isinstance(got, WithoutRange) and isinstance(got.error, RefusedError)
    assert refusal(judge(head(status), None, None, None, UTC)) is RefusedError


def test_an_unsatisfiable_range_tells_a_changed_file_by_its_total() -> None:
    assert refusal(verdict(head(416, content_range="bytes */400"))) is ContentChangedError
    assert refusal(verdict(head(416, content_range="bytes */1000"))) is ProtocolError
    assert refusal(verdict(head(416))) is ProtocolError


def test_a_failed_precondition_means_that_a_known_file_has_changed() -> None:
    assert refusal(verdict(head(412))) is ContentChangedError
    assert refusal(first_verdict(head(412))) is RefusedError


def test_messages_never_repeat_what_the_server_wrote() -> None:
    evil = "\x1b[2J<script>"
    for status in (200, 206, 302, 401, 403, 404, 416, 418, 429, 500):
        for pinned in (None, PINNED):
            answer = head(status, etag=evil, content_length=evil, content_range=evil, retry_after=evil, content_encoding=evil)
            error = getattr(judge(answer, 500, 999, pinned, UTC), "error", None)
            assert error is None or (evil not in str(error) and "script" not in str(error))


@given(
    st.sampled_from([200, 206, 301, 416, 429, 503]) | st.integers(0, 999),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["content-range", "content-length", "content-encoding", "retry-after", "etag", "location", "transfer-encoding"]
            ),
            near_miss | st.text(max_size=40) | st.integers().map(str) | st.just(DATE),
        ),
        max_size=5,
    ),
    st.none() | st.integers(0, 999),
    st.none() | contents,
)
@example(429, [("retry-after", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT")], 0, None)
def test_no_head_makes_the_judge_fall_over(
    status: int, fields: list[tuple[str, str]], first: int | None, pinned: Content | None
) -> None:
    got = judge(Head(status, tuple(fields)), first, None, pinned, UTC)
    if isinstance(got, Accepted):
        assert status in (200, 206, 416)


# ---------------------------------------------------------------------- what the server says of the whole

SHA256 = "".join(f"{n:02x}" for n in range(32))
SHA256_64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.parametrize(
    "field",
    [f"sha-256=:{SHA256_64}:", f"SHA-256=:{SHA256_64}:", f"md5=:AAAA:, sha-256=:{SHA256_64}:", f"sha-256=:{SHA256_64}:, x"],
)
def test_the_digest_that_the_server_promises_is_read(field: str) -> None:
    assert promised_digest(Head(206, (("repr-digest", field),))) == ("sha256", SHA256)


def test_the_stronger_digest_does_where_there_is_no_other() -> None:
    field = "sha-512=:" + "A" * 86 + "==:"
    assert promised_digest(Head(200, (("repr-digest", field),))) == ("sha512", "00" * 64)


@pytest.mark.parametrize(
    "field",
    ["", "sha-256", "sha-256=", "sha-256=::", f"sha-256={SHA256_64}", "sha-256=:AAAA:", "sha-256=:!!!!:", "md5=:AAAA:",
     f"sha-256=:{SHA256_64[:-1]}:"],
)  # fmt: skip
def test_what_is_no_digest_promises_nothing(field: str) -> None:
    assert promised_digest(Head(200, (("repr-digest", field),))) is None
    assert promised_digest(Head(200, (("content-digest", f"sha-256=:{SHA256_64}:"),))) is None


@given(st.text() | st.text(alphabet="sha-256=:,AB= ", max_size=80))
def test_any_repr_digest_can_be_read(text: str) -> None:
    found = promised_digest(Head(200, (("repr-digest", text),)))
    assert found is None or len(found[1]) in (64, 128)
