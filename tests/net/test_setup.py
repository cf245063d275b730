"""Who may see the user's secrets is decided by origins."""

from __future__ import annotations

import pytest

from fastidm.core.redirect import origin
from fastidm.errors import UsageError
from fastidm.net.setup import ascii_url


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://h/a", "http://h:80/b?q#f"),
        ("https://H/a", "HTTPS://h:443"),
        ("http://user:word@h/a", "http://h/"),
        ("http://h?x=http://evil/", "http://h/"),
        ("http://[::1]:80/", "http://[::1]/"),
    ],
)
def test_the_same_origin_in_other_words(one: str, other: str) -> None:
    assert origin(one) == origin(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://h/", "https://h/"),
        ("http://h/", "http://h:8080/"),
        ("http://h/", "http://www.h/"),
        ("http://h/", "http://evil@h.evil/"),
        ("http://h/", "http://evil/@h/"),
        ("http://h/", "http://evil?@h/"),
        ("http://h/", "http://evil#@h/"),
        ("http://h:443/", "https://h:443/"),
    ],
)
def test_other_origins(one: str, other: str) -> None:
    assert origin(one) != origin(other)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("http://h/a?b=%20", "http://h/a?b=%20"),
        ("http://h/é?ü#ß", "http://h/%C3%A9?%C3%BC#%C3%9F"),
        ("http://bücher.example:8080/x", "http://xn--bcher-kva.example:8080/x"),
        ("http://zoë:pässword@h/", "http://zo%C3%AB:p%C3%A4ssword@h/"),
        ("http://" + "a" * 70 + "/é", "http://" + "a" * 70 + "/%C3%A9"),
    ],
)
def test_a_url_goes_over_the_wire_in_ascii(written: str, sent: str) -> None:
    assert ascii_url(written) == sent


def test_a_host_that_cannot_be_written_in_ascii_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        ascii_url("http://" + "ä" * 70 + "/")
