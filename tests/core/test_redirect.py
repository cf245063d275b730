"""Where a redirect may lead."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.redirect import follow
from fastidm.errors import RedirectError

HERE = "https://server.test:8443/a/b/file.bin?key=1#top"


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("https://mirror.test/x.bin", "https://mirror.test/x.bin"),
        ("HTTPS://mirror.test/x.bin", "https://mirror.test/x.bin"),
        ("//mirror.test/x.bin", "https://mirror.test/x.bin"),
        ("/x.bin", "https://server.test:8443/x.bin"),
        ("x.bin?token=a%20b", "https://server.test:8443/a/b/x.bin?token=a%20b"),
        ("../x.bin", "https://server.test:8443/a/x.bin"),
        ("../../../../x.bin", "https://server.test:8443/x.bin"),
        ("?key=2", "https://server.test:8443/a/b/file.bin?key=2"),
        ("  /x.bin\t", "https://server.test:8443/x.bin"),
    ],
)
def test_a_location_is_read_from_where_it_was_sent(location: str, there: str) -> None:
    assert follow(HERE, location, 1, 20) == there


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://mirror.test/x.bin",
        "sftp://mirror.test/x.bin",
        "gopher://mirror.test/",
        "data:text/plain,hello",
        "javascript:alert(1)",
        "https://",
        "http://[::1",
        "http://[nonsense]/",
        "/x\r\nX-Evil: 1",
        "/x\r\nX-Evil:1",
        "/x\nX-Evil:1",
        "/x\rX-Evil:1",
        "\n/x",
        "/x\x00",
        "ht\ttp://mirror.test/x",
        "/x y",
        "/\u202egnp.exe",
    ],
)
def test_what_is_not_plainly_http_is_refused(location: str) -> None:
    assert isinstance(follow("http://server.test/", location, 1, 20), RedirectError)


@pytest.mark.parametrize("name", ["café", "à-la-carte", "ファイル", "naïve-\u0080"])
def test_raw_utf8_in_a_location_is_written_as_a_url_writes_it(name: str) -> None:
    """Heads are read as Latin-1, so that each byte is one character; libcurl takes nothing but ASCII."""
    location = f"/{name}.bin".encode().decode("latin-1")
    assert follow("http://server.test/", location, 1, 20) == f"http://server.test/{quote(name)}.bin"


def test_https_is_never_left_for_http_but_http_may_become_https() -> None:
    assert isinstance(follow(HERE, "http://server.test/x.bin", 1, 20), RedirectError)
    assert isinstance(follow("HTTPS://server.test/", "http://server.test/x.bin", 1, 20), RedirectError)
    assert follow("http://server.test/", "https://server.test/x.bin", 1, 20) == "https://server.test/x.bin"


def test_https_is_left_for_http_when_the_user_allows_it_and_for_nothing_else() -> None:
    assert follow(HERE, "http://server.test/x.bin", 1, 20, downgrade=True) == "http://server.test/x.bin"
    assert isinstance(follow(HERE, "ftp://server.test/x.bin", 1, 20, downgrade=True), RedirectError)


def test_as_many_hops_as_the_user_allows_and_not_one_more() -> None:
    assert follow(HERE, "/x", 20, 20) == "https://server.test:8443/x"
    assert isinstance(follow(HERE, "/x", 21, 20), RedirectError)
    assert isinstance(follow(HERE, "/x", 1, 0), RedirectError)


def test_a_refusal_does_not_show_where_it_led() -> None:
    error = follow("http://server.test/", "ftp://user:secret@mirror.test/?token=secret", 1, 20)
    assert isinstance(error, RedirectError) and "secret" not in str(error) + error.hint


@given(st.text(max_size=40) | st.text(alphabet="htps:/.@[]?#%\\ab1\r\n ", max_size=30))
def test_whatever_the_location_the_answer_is_a_clean_http_url_or_an_error(location: str) -> None:
    there = follow(HERE, location, 1, 20)
    if isinstance(there, str):
        assert there.startswith("https://") and there.isascii() and there.isprintable() and " " not in there
