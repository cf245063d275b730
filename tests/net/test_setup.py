"""Who may see the user's secrets is decided by origins."""

from __future__ import annotations

import pytest

from fastidm.net.setup import origin


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
