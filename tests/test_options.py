"""Options from Python: what means the same is taken, and what cannot be is said by name, before anything is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastidm
from fastidm.errors import UsageError
from fastidm.options import Options, options_from
from tests.support.content import content
from tests.support.servers import Nginx

URL = "http://127.0.0.1:1/x"
DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("named", "name", "value"),
    [
        ({"headers": {"A": "b"}}, "headers", ("A: b",)),
        ({"headers": {"A": b"b"}}, "headers", ("A: b",)),
        ({"headers": [("A", "b"), "C: d"]}, "headers", ("A: b", "C: d")),
        ({"headers": None}, "headers", ()),
        ({"checksum": f"SHA-256:{DIGEST}"}, "checksum", ("sha256", DIGEST)),
        ({"checksum": ("sha256", "A" * 64)}, "checksum", ("sha256", "a" * 64)),
        ({"limit_rate": 1.5e6}, "limit_rate", 1_500_000),
        ({"limit_rate": "1M"}, "limit_rate", 1 << 20),
        ({"timeout": 3}, "timeout", 3),
        ({"path": Path("a"), "dir": "b"}, "output", "b/a"),
        ({"path": "/a", "dir": Path("b")}, "output", "/a"),
        ({"cacert": Path("ca.pem")}, "cacert", "ca.pem"),
    ],
)
def test_what_means_the_same_is_taken(named: dict[str, Any], name: str, value: object) -> None:
    assert getattr(options_from(**named), name) == value


@pytest.mark.parametrize(
    "named",
    [
        {"connections": 8.5}, {"connections": "8"}, {"connections": True}, {"retries": 1.0}, {"max_redirects": None},
        {"limit_rate": 1.5}, {"timeout": None}, {"timeout": "3"}, {"connect_timeout": "x"}, {"user_agent": 3},
        {"proxy": b"http://p:1"}, {"headers": {"A": 1}}, {"headers": [1]}, {"headers": [("A", "b", "c")]},
        {"checksum": ("nope", "00")}, {"checksum": ("sha256", "zz")}, {"cacert": b"x"}, {"dir": b"x"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_said_by_name(named: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        options_from(**named)
    assert next(iter(named)).rstrip("s") in str(caught.value)


@pytest.mark.parametrize("checksum", [("nope", "00"), ("sha256", "zz"), ("SHA256", DIGEST)])
def test_a_checksum_that_cannot_be_compared_is_no_option(checksum: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        Options(checksum=checksum)


@pytest.mark.parametrize("url", [None, 5, b"http://x/", Path("x"), "", " ", "x"], ids=str)
def test_what_is_no_url_is_a_usage_error(url: Any) -> None:
    for call in (fastidm.download, fastidm.fetch, fastidm.stream, fastidm.open):
        with pytest.raises(UsageError):
            call(url)


def test_a_size_may_be_written(nginx: Nginx) -> None:
    url = nginx.add("size.bin", content(2000))
    assert len(fastidm.fetch(url, max_size="2k")) == 2000
    with pytest.raises(fastidm.FastidmError, match="1024 are allowed"):
        fastidm.fetch(url, max_size="1k")
    for wrong in (1.5, -1, "x"):
        with pytest.raises(UsageError):
            fastidm.fetch(url, max_size=wrong)  # type: ignore[arg-type]


def test_a_checksum_of_what_is_only_looked_into_is_refused() -> None:
    with pytest.raises(UsageError, match="checksum"):
        fastidm.open(URL, checksum=f"sha256:{DIGEST}")


def test_a_name_is_in_the_folder_that_is_given(nginx: Nginx, tmp_path: Path) -> None:
    result = fastidm.download(nginx.add("named.bin", content(100)), "other.bin", dir=tmp_path)
    assert result.path == str(tmp_path / "other.bin")
    assert (tmp_path / "other.bin").read_bytes() == content(100)
