"""Trying again: how often, how long to wait, what the server's Retry-After means, and what a trouble becomes in the end."""

from __future__ import annotations

from datetime import UTC as GMT
from datetime import datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastidm.core.retry import LONGEST, PASSING, RetryPolicy, Trouble, final_error, parse_http_date, retry_after
from fastidm.errors import AuthError, FastidmError, LimitError, NetworkError, ProtocolError, TlsError

UTC = 784_111_777.0
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def after(failures: int, retries: int = 5) -> RetryPolicy:
    policy = RetryPolicy(retries)
    for _ in range(failures):
        policy = policy.failed()
    return policy


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_task_survives_as_many_failures_in_a_row_as_the_user_allows(retries: int) -> None:
    assert not after(retries, retries).spent
    assert after(retries + 1, retries).spent


def test_progress_clears_the_count() -> None:
    assert after(5).progressed() == RetryPolicy(5)
    assert not after(5).progressed().failed().spent


def test_a_policy_is_a_value_that_failures_do_not_change() -> None:
    policy = RetryPolicy(5)
    policy.failed()
    assert policy == RetryPolicy(5) and policy.progressed() is policy


def test_the_wait_doubles_up_to_a_cap() -> None:
    waits = [after(failures).delay(lambda: 0.999999) for failures in range(1, 12)]
    assert waits[:4] == pytest.approx([0.5, 1, 2, 4], rel=0.01)
    assert waits == sorted(waits) and waits[-1] == pytest.approx(30, rel=0.01)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_chance_spreads_the_waits_over_the_upper_half(failures: int, chance: float) -> None:
    policy = RetryPolicy(5, failures)
    longest = policy.delay(lambda: 1.0)
    assert 0 < longest / 2 <= policy.delay(lambda: chance) <= longest <= policy.cap


@given(st.floats(0, LONGEST), st.integers(1, 20))
def test_what_the_server_asks_for_is_obeyed_to_the_second(asked: float, failures: int) -> None:
    assert RetryPolicy(5, failures).delay(lambda: 0.5, asked) == asked


def test_no_server_makes_us_wait_for_ever() -> None:
    assert after(1).delay(lambda: 0.5, 1e10) == LONGEST


# ---------------------------------------------------------------------- Retry-After


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 3 ", 3.0),
        (DATE, 0.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        ("sun, 06 nov 1994 08:49:47 gmt", 10.0),
    ],
)
def test_both_forms_are_understood(text: str, seconds: float) -> None:
    assert retry_after(text, UTC) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "soon", "-1", "+3", "3.5", "3s", "1e3", "٣", "12345678901"),
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 PST",
        "Sun, 06 Nov 1994 08:49 GMT",
        "06 Nov 1994 08:49:37 GMT",
    ],
)
def test_anything_else_is_as_good_as_no_field(text: str | None) -> None:
    assert retry_after(text, UTC) is None


@given(st.datetimes(timezones=st.just(GMT)))
def test_every_date_is_read_back_to_the_second(when: datetime) -> None:
    moment = when.replace(microsecond=0)
    assert parse_http_date(format_datetime(moment, usegmt=True)) == moment.timestamp()


date_like = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Sun", ""]),
    st.integers(),
    st.sampled_from(["Jan", "Nov", "DEC", "Foo"]),
    st.integers(),
    st.integers(),
    st.integers(),
    st.integers(),
    st.sampled_from(["GMT", "UTC", "PST"]),
)


@given(st.text(max_size=40) | date_like | st.text(alphabet="0123456789-: ,GMTNov", max_size=40))
@example("Sun, 06 Nov 99999999999999999999 08:49:37 GMT")
@example("Sun, " + "9" * 5000 + " Nov 1994 08:49:37 GMT")
@example("9" * 5000)
def test_no_text_makes_it_fall_over(text: str) -> None:
    wait = retry_after(text, UTC)
    assert wait is None or wait >= 0


# ---------------------------------------------------------------------- what a trouble becomes


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (Trouble.RESOLVE, NetworkError),
        (Trouble.CONNECT, NetworkError),
        (Trouble.TIMEOUT, NetworkError),
        (Trouble.BROKEN, NetworkError),
        (Trouble.PROXY, NetworkError),
        (Trouble.LOCAL, NetworkError),
        (Trouble.TLS, TlsError),
        (Trouble.CERTIFICATE, TlsError),
        (Trouble.PROXY_AUTH, AuthError),
        (Trouble.TOO_LARGE, LimitError),
        (Trouble.MALFORMED, ProtocolError),
    ],
)
def test_a_final_trouble_has_its_error_class(trouble: Trouble, error: type[FastidmError]) -> None:
    assert type(final_error(trouble)) is error
    assert "by the peer" in str(final_error(trouble, "by the peer"))


def test_every_trouble_has_an_error_and_a_bad_certificate_is_never_tried_again() -> None:
    assert all(isinstance(final_error(trouble), FastidmError) for trouble in Trouble)
    assert not PASSING & {Trouble.CERTIFICATE, Trouble.PROXY_AUTH, Trouble.TOO_LARGE, Trouble.MALFORMED}
