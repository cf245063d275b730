"""What may be shown of a URL, and of any text."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm import errors
from fastidm.errors import EXIT_CODES, FastidmError, printable, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.bin", "https://host/a/b.bin"),
        ("https://host:8443/a@b?x=1#y", "https://***@b?***#***"),
        ("https://host/@scope/pkg", "https://host/@scope/pkg"),
        ("https://host:8443/a?mail=a@b", "https://host:8443/a?***"),
        ("https://host?token", "https://host?***"),
        ("https://host/a#token", "https://host/a#***"),
        ("https://host/a#b?c", "https://host/a#***"),
        ("http://ann:word@host:80/a?b", "http://***@host:80/a?***"),
        ("http://word@host/", "http://***@host/"),
        ("http://ann:w@rd@host/", "http://***@host/"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://[::1]/x", "http://[::1]/x"),
        ("http://host:/x", "http://host:/x"),
        # Passwords that should have been encoded.
        ("http://ann:wo/rd@host/x", "http://***@host/x"),
        ("http://ann:wo?rd@host/x", "http://***"),
        ("http://ann:wo#rd@host/x", "http://***"),
        ("http://ann:12/word@host/x", "http://***@host/x"),
        ("http://ann:12?word@host/x", "http://***"),
        ("http://ann:word", "http://***"),
        ("http://ann:[word]", "http://***"),
        # No URLs.
        ("ann:word@host/x?y", "***@host/x?***"),
        ("ann:word@host/http://x", "***@host/http://x"),
        ("ann:wo?rd@host", "***"),
        ("host/x?mail=a@b", "host/x?***"),
        ("'http://ann:word@host'", "***@host'"),
        ("plain text", "plain text"),
        ("", ""),
        ("http://host/\x1b[2J\u202e", "http://host/\\x1b[2J\\u202e"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact(url) == shown


SECRET = "s3cret"
URL_TEXT = st.text("ab1:/?#@[]%.&=\u202e ", max_size=12)


# With two of these kinds in one password nobody can tell where the host begins.
PASSWORD = st.sampled_from(["/", "?#", "@"]).flatmap(lambda odd: st.tuples(*[st.text("ab1:[]%.&= " + odd, max_size=8)] * 2))


@given(st.sampled_from(["http://", "HTTPS://", "socks5h://", ""]), PASSWORD, URL_TEXT, URL_TEXT)
def test_a_secret_is_never_shown_whatever_stands_around_it(
    scheme: str, around: tuple[str, str], host: str, query: str
) -> None:
    before, after = around
    assert SECRET not in redact(f"{scheme}ann:{before}{SECRET}{after}@host{host}")
    assert SECRET not in redact(f"{scheme}{host}?{before}{SECRET}{after}")
    assert SECRET not in redact(f"{scheme}{host}#{before}{SECRET}{after}?{query}")


@given(st.text() | URL_TEXT.map("http://".__add__))
def test_what_is_shown_can_be_shown_and_is_shown_the_same_again(text: str) -> None:
    shown = redact(text)
    assert shown.isprintable()
    assert redact(shown) == shown
    assert printable(text).isprintable()


def test_text_that_can_be_shown_is_shown_as_it_is() -> None:
    assert printable("plain, naïve and 漢") == "plain, naïve and 漢"
    assert printable("a\nb\x1b\x9b\u202e\udce9") == "a\\nb\\x1b\\x9b\\u202e\\udce9"


def test_every_leaf_has_a_code_and_a_name_of_its_own_and_survives_pickling() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FastidmError)]
    leaves = {c.exit_code: c.name for c in classes}
    assert leaves == {code: name for code, (name, _) in EXIT_CODES.items() if code}
    for each in classes:
        copy = pickle.loads(pickle.dumps(each("what", "hint")))
        assert (type(copy), copy.message, copy.hint) == (each, "what", "hint")
