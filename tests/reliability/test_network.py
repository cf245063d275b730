"""Names, addresses, proxies, TLS, and networks that go away: never a wrong byte, never for ever."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability import names
from tests.reliability.cases import Case, check, params
from tests.reliability.cases_tls import CERTIFICATES, STREAMS
from tests.reliability.exchange import Book
from tests.reliability.faultserver import FaultServer
from tests.support.command import Command, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, OddServer, Proxy

MIB = 1 << 20
HURRIED = ("--connect-timeout", "1", "--retries", "0")


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes names."""
    library = names.build(tmp_path_factory.mktemp("names"))
    if library is None:
        pytest.skip("there is no C compiler, or no LD_PRELOAD")
    return library


def arrived(folder: Path, data: bytes, name: str = "a.bin") -> None:
    assert [path.name for path in folder.iterdir()] == [name]
    assert first_difference((folder / name).read_bytes(), data) is None


# --- names ---


@pytest.mark.row("D1")
def test_a_name_that_does_not_exist(folder: Path) -> None:
    outcome = run("--json", "http://no-such-host.invalid/a.bin", cwd=folder)
    assert outcome.code == 6 and "resolve" in outcome.complaint
    assert len(outcome.of("retry")) == 1
    assert not list(folder.iterdir())


@pytest.mark.row("D2")
def test_a_resolver_that_hangs_holds_up_nobody_else(named: Path, faults: FaultServer, folder: Path) -> None:
    env = names.environment(named, hangs_test=names.HANGS)
    urls = ("http://hangs.test/a.bin", faults.url + "/D2/file/b.bin?size=8M")
    outcome = run("--json", *HURRIED, *urls, cwd=folder, env=env)
    assert outcome.code == 6
    (done,) = outcome.of("done")
    assert done["task"] == 2 and done["seconds"] < 1
    arrived(folder, content(8 * MIB, 1), "b.bin")


@pytest.mark.row("D3")
def test_an_address_in_a_black_hole_costs_less_than_a_second(named: Path, faults: FaultServer, folder: Path) -> None:
    with black_hole(faults.port):
        env = names.environment(named, both_test="::1,127.0.0.1")
        outcome = run("--json", f"http://both.test:{faults.port}/D3/file/a.bin", cwd=folder, env=env)
    assert outcome.done["seconds"] < 1 + 1
    arrived(folder, content(4 * MIB, 1))


@contextlib.contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Nobody answers to a SYN at [::1]: the queue of a socket that accepts nothing is full."""
    with contextlib.ExitStack() as stack:
        try:
            full = stack.enter_context(socket.socket(socket.AF_INET6))
            full.bind(("::1", port))
        except OSError:
            pytest.skip("there is no IPv6 here")
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_INET6))
            waiting.setblocking(False)
            waiting.connect_ex(("::1", port))
        yield


@pytest.mark.row("D4")
def test_a_dead_address_among_several(named: Path, faults: FaultServer, folder: Path) -> None:
    env = names.environment(named, two_test="127.0.0.3,127.0.0.1")
    outcome = run("--json", f"http://two.test:{faults.port}/D4/file/a.bin?size=8M", cwd=folder, env=env)
    assert outcome.done["retries"] == 0
    arrived(folder, content(8 * MIB, 1))


@pytest.mark.row("D5")
@pytest.mark.parametrize("etag", ["%22{host}%22", ""], ids=["validators", "no validators"])
def test_another_node_with_other_content(etag: str, named: Path, faults: FaultServer, folder: Path) -> None:
    key = "D5-" + ("with" if etag else "without")
    faults.books[key] = Book()
    url = f"http://node.test:{faults.port}/{key}/dies/a.bin?seed.127.0.0.2=2&etag={etag}"
    env = names.environment(named, node_test="127.0.0.1")
    assert run("--json", "--retries", "0", url, cwd=folder, env=env).code == 6
    faults.books[key].phase = 2
    outcome = run("--json", url, cwd=folder, env=names.environment(named, node_test="127.0.0.2"))
    assert outcome.code == 8
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin.fastidm", "a.bin.part"]
    run("--json", url, cwd=folder, env=env).done  # noqa: B018
    arrived(folder, content(4 * MIB, 1))


@pytest.mark.row("D6")
def test_a_server_that_comes_up_later(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with Command("--json", f"http://127.0.0.1:{port}/D6/file/a.bin", cwd=folder) as command:
        command.wait_for("retry")
        with FaultServer(port=port):
            command.finish().done  # noqa: B018
    arrived(folder, content(4 * MIB, 1))


# --- TLS ---


@pytest.mark.parametrize("case", params(CERTIFICATES))
def test_a_certificate_that_is_not_to_be_trusted(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder)


@pytest.mark.parametrize("case", params(STREAMS))
def test_a_stream_that_does_not_end_as_it_should(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder)


# --- proxies ---


@pytest.mark.row("D14")
def test_a_proxy_that_wants_another_password(faults: FaultServer, folder: Path) -> None:
    with OddServer(Proxy("ann:right")) as proxy:
        address = proxy.url.replace("http://", "http://ann:canary@")
        for url in (faults.url + "/D14/file/a.bin", faults.urls["tls"] + "/D14/file/a.bin"):
            outcome = run("--json", "--cacert", faults.cacert, "-x", address, url, cwd=folder)
            assert outcome.code == 18
            assert "canary" not in outcome.stdout + outcome.stderr
    assert not list(folder.iterdir())


@pytest.mark.row("D14")
def test_a_proxy_that_cannot_reach_the_server(faults: FaultServer, folder: Path) -> None:
    with OddServer(lambda exchange: exchange.answer(502)) as proxy:
        words = ("--json", *HURRIED, "--cacert", faults.cacert, "-x", proxy.url, faults.urls["tls"] + "/D14/file/a.bin")
        outcome = run(*words, cwd=folder)
    assert outcome.code == 6 and outcome.complaint
    assert not list(folder.iterdir())


@pytest.mark.row("D14")
def test_a_proxy_that_dies_in_the_middle(faults: FaultServer, folder: Path) -> None:
    url = faults.url + "/D14-dies/file/a.bin"
    with OddServer(DyingProxy(2 * MIB)) as proxy:
        address = proxy.url.replace("http://", "http://ann:canary@")
        outcome = run("--json", "--retries", "0", "-x", address, url, cwd=folder)
    assert outcome.code == 6 and outcome.complaint
    assert {path.suffix for path in folder.iterdir()} == {".part", ".fastidm"}
    assert b"canary" not in (folder / "a.bin.fastidm").read_bytes() + (outcome.stdout + outcome.stderr).encode()
    assert run("--json", url, cwd=folder).done["resumed"] > 0
    arrived(folder, content(4 * MIB, 1))


class DyingProxy:
    """Passes on `allowed` bytes in all, and resets whatever comes then."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed

    def __call__(self, exchange: Exchange) -> None:
        if self.allowed <= 0:
            exchange.reset()
        address, _, path = exchange.target.removeprefix("http://").partition("/")
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            lines = [f"GET /{path} HTTP/1.1", f"Host: {address}", f"Range: {exchange.headers['range']}", "", ""]
            upstream.sendall("\r\n".join(lines).encode())
            while self.allowed > 0 and (data := upstream.recv(16384)):
                self.allowed -= len(data)
                exchange.connection.sendall(data)
        exchange.reset()


@pytest.mark.row("D15")
def test_proxies_in_the_environment(faults: FaultServer, folder: Path) -> None:
    url = faults.url + "/D15/file/{}.bin?size=1k"
    with OddServer(Proxy()) as proxy:
        asked = []
        settings: list[tuple[tuple[str, ...], dict[str, str]]] = [
            ((), {"http_proxy": proxy.url}),
            ((), {"http_proxy": proxy.url, "no_proxy": "127.0.0.1"}),
            (("-x", ""), {"http_proxy": proxy.url}),
            ((), {"HTTP_PROXY": proxy.url}),
        ]
        for number, (words, env) in enumerate(settings):
            run("--json", *words, url.format(number), cwd=folder, env=env).done  # noqa: B018
            asked.append(len(proxy.exchanges))
    # The last one is what a web server makes of the header "Proxy": nobody's wish.
    assert asked == [1, 1, 1, 1]


# --- networks that go away ---


@pytest.mark.row("D16")
def test_every_open_connection_is_dead_and_new_ones_are_well(faults: FaultServer, folder: Path) -> None:
    """As after a suspend, or on another network: nobody tells."""
    faults.books["D16"] = Book()
    outcome = run("--json", faults.url + "/D16/outage/a.bin?size=8M&rate=2M&after=3M", "--conn", "2", cwd=folder)
    assert outcome.done["retries"] >= 1
    arrived(folder, content(8 * MIB, 1))
    held = faults.books["D16"].notes["outage"]
    begun = sorted(record.begun for record in faults.books["D16"].records)
    assert held == 1 and max(b - a for a, b in itertools.pairwise(begun)) <= 12


@pytest.mark.row("D18")
@pytest.mark.parametrize("descriptors", [20, 24])
def test_no_descriptors_for_more_connections(descriptors: int, faults: FaultServer, folder: Path) -> None:
    key = f"D18-{descriptors}"
    faults.books[key] = Book()
    limited = ("prlimit", f"--nofile={descriptors}")
    outcome = run("--json", faults.url + f"/{key}/file/a.bin?size=8M&rate=4M", cwd=folder, wrapper=limited)
    assert outcome.code == 0, outcome
    arrived(folder, content(8 * MIB, 1))
    assert len({record.connection for record in faults.books[key].records}) < 16
