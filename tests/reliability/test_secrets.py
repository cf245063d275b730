"""Secrets: a canary in every place that takes one, and everything that is written searched for it.

Rules of this module: the canary is looked for in plain and in the forms that a leak would have (base64, percent-encoded). Where
it may be is said by a control: the server that the user asked has seen it. The command line of the process itself
(`/proc/PID/cmdline`) is the user's own doing; a password that shall not be there comes by FASTIDM_PASSWORD, `@FILE` or netrc.
"""

from __future__ import annotations

import base64
import os
import pickle
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from urllib.parse import quote, urlsplit

import pycurl
import pytest

from fastidm import errors
from fastidm.cli import main
from fastidm.core.redirect import follow, origin
from fastidm.errors import UsageError
from fastidm.net.setup import configure
from fastidm.net.transfers import Transfer
from fastidm.options import Options
from fastidm.queue import Queue
from tests.support.command import Command, Outcome, call, run
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer, Proxy
from tests.support.servers import CA

MIB = 1 << 20
DATA = content(3 * MIB, seed=20)
SMALL = DATA[:3000]
CANARY = "c4n4ry+Secret"
FORMS = {CANARY, quote(CANARY, safe="")} | {
    # Wherever it begins within a base64 text, these letters in the middle are the same.
    base64.b64encode(b"x" * shift + CANARY.encode()).decode()[4:-4]
    for shift in range(3)
}

Serve = Callable[..., OddServer]


@pytest.fixture
def odd() -> Iterator[Serve]:
    """`server = odd(habit)`: a server that is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda habit, tls=None: stack.enter_context(OddServer(habit, tls))


class Place:
    """A folder to run in, a HOME with a netrc and a temporary folder; knows all that was written."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.home, self.temporary = (tmp_path / name for name in ("here", "home", "temporary"))
        for folder in (self.folder, self.home, self.temporary):
            folder.mkdir()
        self.cookies, self.headers = self.home / "cookies.txt", self.home / "headers.txt"
        self.cookies.write_text(f"127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{CANARY}\n")
        self.headers.write_text(f"X-From-File: {CANARY}\n")
        (self.home / ".netrc").write_text(f"machine 127.0.0.1 login ann password {CANARY}\n")
        (self.home / ".netrc").chmod(0o600)
        self._mine = sorted(os.listdir(self.home))
        self.env = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "FASTIDM_DEBUG": "1"}

    def call(self, *arguments: object) -> Outcome:
        """The command within this process; what it wrote is searched."""
        outcome = call(*arguments, cwd=self.folder)
        self.search(outcome)
        return outcome

    def search(self, *outcomes: Outcome) -> None:
        """Fail if a secret was written anywhere."""
        for outcome in outcomes:
            assert_clean(outcome.stdout, outcome.stderr)
        assert sorted(os.listdir(self.home)) == self._mine
        assert os.listdir(self.temporary) == []
        for path in self.folder.rglob("*"):
            extended = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
            assert_clean(str(path.name), path.read_bytes().decode("latin-1"), repr(extended))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    return made


def assert_clean(*texts: str) -> None:
    for text in texts:
        assert not [form for form in FORMS if form in text], text[:2000]


def has_secrets(exchanges: list[Exchange]) -> bool:
    return any(form in exchange.head_text for exchange in exchanges for form in FORMS)


WAYS = ("all at once", "user", "netrc")


def secretive(way: str, server: OddServer, place: Place) -> tuple[str, list[str]]:
    """(URL, flags) with a secret in every place that takes one, at least in this way."""
    flags = ["--header", f"X-Token: {CANARY}", "-H", f"Authorization-2: Bearer {CANARY}", "-H", f"@{place.headers}"]
    flags += ["--cookie-file", str(place.cookies)]
    url = f"{server.url}/a.bin?X-Amz-Signature={CANARY}&{CANARY}=1#{CANARY}"
    if way == "user":
        flags += ["--user", f"ann:{CANARY}"]
    elif way == "netrc":
        flags += ["--netrc"]
    else:
        url = url.replace("://", f"://ann:{quote(CANARY)}@")
    return url, flags


# --- what is written ---


@pytest.mark.parametrize("way", WAYS)
def test_no_end_of_a_download_writes_a_secret(way: str, odd: Serve, place: Place) -> None:
    server = odd(File(SMALL))
    url, flags = secretive(way, server, place)
    echo = (f"X-Echo: {CANARY}", f'ETag: "{CANARY}"')
    there = odd(File(SMALL))
    ends: list[tuple[int, Habit, tuple[str, ...]]] = [
        (3, lambda e: e.answer(404, *echo, body=CANARY.encode()), ()),
        (4, lambda e: e.answer(403, *echo, body=CANARY.encode()), ()),
        (5, lambda e: e.answer(503, "Retry-After: 0"), ("--retries", "1")),
        (6, lambda e: e.reset(), ("--retries", "0")),
        (14, lambda e: e.answer(206, f"Content-Range: bytes {CANARY}"), ()),
        (15, File(SMALL), ("--checksum", "md5:" + "0" * 32)),
        (17, lambda e: e.answer(302, f"Location: ftp://ann:{CANARY}@h/{CANARY}?{CANARY}"), ()),
        (17, lambda e: e.answer(302, f"Location: {e.target}&{CANARY}"), ()),
        (18, lambda e: e.answer(401, f'WWW-Authenticate: Basic realm="{CANARY}"'), ()),
        (0, lambda e: e.answer(302, f"Location: {there.url}/x.bin"), ("--overwrite",)),
        (0, File(SMALL), ("--overwrite",)),
        (12, File(SMALL), ()),
        (12, File(SMALL), ("-o", "a.bin")),
        (13, File(SMALL), ("-o", "n" * 300)),
        (10, File(SMALL), ("-d", "nowhere")),
    ]
    for code, habit, more in ends:
        server.habit = habit
        for how in ((), ("--json",)):
            outcome = place.call(*how, *flags, *more, url)
            assert outcome.code == code, (more, outcome)
    assert has_secrets(server.exchanges), "the server that was asked is told"
    assert not has_secrets(there.exchanges)


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_and_a_stopped_download_leave_no_secret_in_their_files(way: str, odd: Serve, place: Place) -> None:
    gate = Gate(File(DATA), MIB)
    server = odd(gate)
    url, flags = secretive(way, server, place)
    with Command("--json", *flags, url, cwd=place.folder, env=place.env) as command:
        command.wait_for("start")
        command.send(signal.SIGKILL)
        killed = command.finish()
    assert sorted(os.listdir(place.folder)) == ["a.bin.fastidm", "a.bin.part"]
    place.search(killed)
    with Command("--json", *flags, url, cwd=place.folder, env=place.env) as command:
        command.wait_for("start")
        assert place.call(*flags, url).code == 11, "the other one holds it"
        command.send(signal.SIGTERM)
        stopped = command.finish()
    assert stopped.code == 7
    assert "to go on" in stopped.stderr
    place.search(stopped)
    server.habit = File(DATA, etag='"2"')
    assert place.call(*flags, url).code == 8
    gate.open()
    server.habit = gate
    done = place.call("--json", *flags, url).done
    assert done["resumed"] > 0
    assert os.listdir(place.folder) == ["a.bin"]
    assert (place.folder / "a.bin").read_bytes() == DATA
    assert has_secrets(server.exchanges)


MISTAKES = (
    f"http://ann:{CANARY}@",
    f"http://ann:{CANARY}@:80/x",
    f"http://ann:{CANARY}@host:port/x",
    f"http://ann:{CANARY}@host/a b",
    f"http://ann:{CANARY}@host/\x1b",
    f"http://ann:{CANARY}@ho^st/x",
    f"http://ann:x%00{CANARY}@127.0.0.1:9/x",
    f"http://ann:pass/{CANARY}@host/x",
    f"http://ann:pass?{CANARY}@host/x",
    f"http://ann:pass#{CANARY}@host/x",
    f"http://ann:{CANARY}",
    f"http://{'ä' * 70}/?{CANARY}",
    f"htp://ann:{CANARY}@host/x?{CANARY}",
    f"ftp://ann:{CANARY}@host/x?{CANARY}",
    f"https:/ann:{CANARY}@host/x",
    f"ann:{CANARY}@host/x?{CANARY}#{CANARY}",
    f"ann:{CANARY}@host/http://x",
    f"host/x?{CANARY}",
)


@pytest.mark.parametrize("url", MISTAKES)
def test_no_mistake_in_a_url_repeats_its_secret(url: str, place: Place) -> None:
    assert place.call("--retries", "0", url).code == 2
    if url.startswith("http"):
        proxied = place.call("--retries", "0", "--proxy", url, "http://127.0.0.1:9/x")
        assert proxied.code in (2, 6)
    for api in (lambda: Options(proxy=url), lambda: Queue().add(url)):
        try:
            api()
        except UsageError as error:
            assert_clean(str(error), repr(error), error.hint, "".join(traceback.format_exception(error)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--user", f"ann:{CANARY}\n"),
        ("--user", CANARY),
        ("--header", CANARY),
        ("--header", f"X: {CANARY}\r\nY: 1"),
        (f"--password={CANARY}",),
        (f"--password:{CANARY}",),
        (f"-p{CANARY}",),
        (f"-P={CANARY}",),
        (f"--quiet={CANARY}",),
        ("--proxy", f"ann:{CANARY}@host"),
        ("--proxy", f"ftp://ann:{CANARY}@host"),
        ("--proxy", f"http://ann:{CANARY}@host:99999"),
        ("--proxy", f"http://ann:{CANARY} x@host"),
        ("--proxy", f"ann:{CANARY}@host://x"),
    ],
)
def test_no_mistake_in_a_flag_repeats_its_secret(arguments: tuple[str, ...], place: Place) -> None:
    assert place.call(*arguments, f"http://ann:{CANARY}@127.0.0.1:9/x?{CANARY}").code == 2


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://ann:{CANARY}@[::1",
        f"http://ann:{CANARY}@127.0.0.1:99999",
        f"http://ann:{CANARY} x@127.0.0.1:9",
        f"ann:{CANARY}@127.0.0.1:99999",
        f"ftp://ann:{CANARY}@127.0.0.1:9",
        f"socks5h://ann:{CANARY}@127.0.0.1:9",
        f"http://ann:{CANARY}@no-such-host.invalid:9",
        f"http://ann:it's{CANARY}@127.0.0.1:99999",
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy: str, place: Place) -> None:
    """libcurl repeats the whole address of a proxy that it does not understand."""
    outcome = run("--retries", "0", "http://127.0.0.1:9/x", cwd=place.folder, env={**place.env, "http_proxy": proxy})
    assert outcome.code == 6
    place.search(outcome)


def test_a_proxy_that_asks_for_and_gets_a_password_hears_nothing_else_and_nobody_hears_of_it(odd: Serve, place: Place) -> None:
    server, proxy = odd(File(SMALL)), odd(Proxy(f"ann:{CANARY}"))
    address = proxy.url.replace("://", f"://ann:{quote(CANARY)}@")
    assert place.call("--json", "--proxy", address, server.url + "/a.bin").code == 0
    assert not has_secrets(server.exchanges)
    assert has_secrets(proxy.exchanges)
    proxy.habit = Proxy("ann:another")
    for how in ((), ("--json",)):
        assert place.call(*how, "--overwrite", "--proxy", address, server.url + "/a.bin").code == 18
    proxy.habit = lambda exchange: exchange.reset()
    assert place.call("--overwrite", "--retries", "0", "--proxy", address, server.url + "/a.bin").code == 6


def test_the_live_block_and_an_internal_error_show_no_secret(odd: Serve, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.chdir(place.folder)
    server = odd(File(SMALL))
    url, flags = secretive("all at once", server, place)
    assert main.run(["--overwrite", *flags, url]) == 0
    server.habit = lambda exchange: exchange.answer(503, "Retry-After: 0")
    assert main.run(["--overwrite", "--retries", "1", *flags, url]) == 5

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("an internal error")

    monkeypatch.setattr("fastidm.net.transfers.configure", broken)
    assert main.run(["--overwrite", *flags, url]) == 1
    monkeypatch.setattr("fastidm.cli.main.Run", broken)
    assert main.run([*flags, url]) == 1
    assert "Traceback" in screen.getvalue(), "FASTIDM_DEBUG=1 asks for it"
    assert_clean(screen.getvalue())


# --- what another server sees ---

HOME = "http://files.test"
HOPS = {
    "another host": "http://other.test/x.bin",
    "another port": f"{HOME}:8080/x.bin",
    "a sub-domain": "http://sub.files.test/x.bin",
    "the domain above": "http://test/x.bin",
    "a host that begins alike": "http://files.test.evil.test/x.bin",
    "our host as a user": "http://files.test@other.test/x.bin",
    "our host as user and password": "http://files.test:80@other.test/x.bin",
    "our host behind a backslash": "http://other.test\\@files.test:8080/x.bin",
    "our host in the path": "http://other.test/@files.test",
    "our host in the query": "http://other.test?@files.test/",
    "a user in the Location": "http://bob:builder@other.test/x.bin",
    "a user in the Location, on another port": "http://bob:builder@files.test:8080/x.bin",
    "no scheme": "//other.test/x.bin",
}


@pytest.mark.row("H30")
@pytest.mark.parametrize("location", HOPS.values(), ids=HOPS)
@pytest.mark.parametrize("way", WAYS)
def test_a_redirect_takes_no_secret_to_another_origin(way: str, location: str, odd: Serve, place: Place) -> None:
    """One proxy plays all hosts, so that they have names; what it was asked to pass on is what they would see."""
    file = File(SMALL)

    def habit(exchange: Exchange) -> None:
        if exchange.target.startswith(f"{HOME}/a.bin"):
            exchange.answer(302, f"Location: {location}")
        else:
            file(exchange)

    everybody = odd(habit)
    url, flags = secretive(way, everybody, place)
    url = url.replace(f"127.0.0.1:{everybody.port}", "files.test")
    place.cookies.write_text(
        "".join(
            f"{host}\t{sub}\t/\tFALSE\t0\tsession\t{CANARY}\n"
            for host, sub in (("files.test", "FALSE"), (".else.test", "TRUE"))
        )
    )
    (place.home / ".netrc").write_text(
        "".join(f"machine {host} login ann password {CANARY}\n" for host in ("files.test", "other.test", "sub.files.test"))
    )
    outcome = place.call("--proxy", everybody.url, *flags, url)
    assert outcome.code in (0, 2, 17), outcome
    home = [exchange for exchange in everybody.exchanges if urlsplit(exchange.target).netloc == "files.test"]
    others = [exchange for exchange in everybody.exchanges if exchange not in home]
    assert has_secrets(home)
    assert others or outcome.code
    for exchange in others:
        assert not has_secrets([exchange]), exchange.head_text
        assert not {"referer", "cookie", "x-token", "authorization-2"} & set(exchange.headers)
        assert CANARY not in exchange.headers.get("authorization", "")


PIECES = (
    *("files.test", "FILES.TEST", "files.test.", "other.test", "127.0.0.1", "user", ".", "[::1]", "\xe9", "%40", "%2f", ";"),
    *("@", "@", "@", ":80", ":8080", ":", "/", "//", "\\", "?", "#", "files.test@", "@other.test", "files.test:80@"),
    *(f"other.test{mark}@files.test" for mark in "?#/\\;:."),
)


@pytest.mark.row("H30")
def test_libcurl_asks_the_host_that_was_judged_to_be_the_users_own(odd: Serve) -> None:
    """Else a Location that the two read differently would get the secrets. An answer of a proxy tells how libcurl read it."""
    server = odd(lambda exchange: exchange.answer(200))
    chance = random.Random(22)
    curl = pycurl.Curl()
    compared = 0
    while compared < 1500:
        location = "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 6)))
        there = follow(f"{HOME}/a", chance.choice(("http://", "//", "")) + location, 1, 20)
        if not isinstance(there, str) or origin(there) != HOME:
            continue
        curl.reset()
        configure(curl, Options(proxy=server.url), there, None, None, trusted=True)
        before = len(server.exchanges)
        try:
            curl.perform()
        except pycurl.error:
            continue
        (exchange,) = server.exchanges[before:]
        assert urlsplit(exchange.target).netloc.lower() in ("files.test", "files.test:80"), location
        compared += 1
    curl.close()


@pytest.mark.row("H30")
def test_the_cookies_of_a_file_go_where_the_file_says_and_to_no_unusual_port(odd: Serve, place: Place) -> None:
    place.cookies.write_text(
        ".files.test\tTRUE\t/\tFALSE\t0\twide\t1\n"
        "files.test\tFALSE\t/\tFALSE\t0\tnarrow\t1\n"
        "other.test\tFALSE\t/\tFALSE\t0\tother\t1\n"
        "other.test\tFALSE\t/\tTRUE\t0\tsecure\t1\n"
    )
    seen: dict[str, str | None] = {}
    location = ""

    def habit(exchange: Exchange) -> None:
        seen[exchange.target] = exchange.headers.get("cookie")
        if exchange.target == f"{HOME}/a.bin":
            exchange.answer(302, f"Location: {location}")
        else:
            File(SMALL)(exchange)

    everybody = odd(habit)
    for location, cookies in (
        ("http://sub.files.test/x", {"wide=1"}),
        ("http://other.test/x", {"other=1"}),
        ("http://files.test:8080/x", set()),
        ("http://sub.files.test:8080/x", set()),
        (f"{HOME}/b", {"wide=1", "narrow=1"}),
    ):
        call("--overwrite", "--proxy", everybody.url, "-b", place.cookies, f"{HOME}/a.bin", cwd=place.folder)
        assert set(filter(None, (seen[location] or "").split("; "))) == cookies, location


@pytest.mark.row("H30")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("up", [True, False], ids=["to https", "to http"])
def test_a_change_of_scheme_is_a_change_of_origin(way: str, up: bool, odd: Serve, place: Place, ca: CA) -> None:
    certificate = ca.issue("127.0.0.1")
    tls = (certificate.chain, certificate.key)
    there = odd(File(SMALL), None if not up else tls)
    here = odd(lambda exchange: exchange.answer(302, f"Location: {there.url}/x.bin"), tls if not up else None)
    url, flags = secretive(way, here, place)
    outcome = place.call("--cacert", ca.file, *([] if up else ["--allow-downgrade"]), *flags, url)
    assert outcome.code == 0
    assert has_secrets(here.exchanges)
    assert there.exchanges
    assert not has_secrets(there.exchanges)


# --- where redirects lead ---


@pytest.mark.row("H31")
def test_a_redirect_to_a_local_file_is_refused_and_reads_nothing(odd: Serve, place: Place) -> None:
    secret = place.home / "secret.txt"
    secret.write_text("mine")
    os.utime(secret, (1, 1))
    for location in (f"file://{secret}", f"FILE:{secret}", f"file://localhost{secret}", f"file:/{secret}"):
        server = odd(lambda exchange, location=location: exchange.answer(302, f"Location: {location}"))
        outcome = call(server.url + "/a.bin", cwd=place.folder)
        assert outcome.code == 17
        assert outcome.complaint
        assert os.listdir(place.folder) == []
        assert secret.stat().st_atime == 1
        assert len(server.exchanges) == 1


@pytest.mark.row("H32")
@pytest.mark.parametrize("scheme", ["ftp", "gopher", "sftp", "scp", "dict", "ldap", "tftp", "smb", "data", "ws", "javascript"])
def test_a_redirect_to_anything_but_http_is_refused_and_nobody_is_asked(scheme: str, odd: Serve, place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bystander:
        bystander.setblocking(False)
        location = f"{scheme}://127.0.0.1:{bystander.getsockname()[1]}/x,y"
        outcome = call(odd(lambda exchange: exchange.answer(302, f"Location: {location}")).url + "/a.bin", cwd=place.folder)
        assert outcome.code == 17
        assert outcome.complaint
        assert os.listdir(place.folder) == []
        with pytest.raises(BlockingIOError):
            bystander.accept()


@pytest.mark.row("H32")
def test_https_is_left_for_http_only_when_that_is_allowed(odd: Serve, place: Place, ca: CA) -> None:
    certificate = ca.issue("127.0.0.1")
    there = odd(File(SMALL))
    here = odd(lambda exchange: exchange.answer(302, f"Location: {there.url}/x"), (certificate.chain, certificate.key))
    outcome = call("--cacert", ca.file, here.url + "/a.bin", cwd=place.folder)
    assert outcome.code == 17
    assert "--allow-downgrade" in outcome.complaint
    assert (os.listdir(place.folder), there.exchanges) == ([], [])
    assert call("--cacert", ca.file, "--allow-downgrade", here.url + "/a.bin", cwd=place.folder).code == 0
    assert (place.folder / "a.bin").read_bytes() == SMALL


@pytest.mark.row("H33")
def test_a_redirect_to_an_address_of_ones_own_is_followed_as_the_user_may_go_there(odd: Serve, place: Place) -> None:
    file = File(SMALL)

    def habit(exchange: Exchange) -> None:
        if exchange.target.startswith(HOME):
            exchange.answer(302, "Location: http://169.254.169.254/latest")
        else:
            file(exchange)

    everybody = odd(habit)
    assert call("--proxy", everybody.url, f"{HOME}/a.bin", cwd=place.folder).code == 0
    assert [exchange.target for exchange in everybody.exchanges] == [f"{HOME}/a.bin", "http://169.254.169.254/latest"]


INJECTIONS = (
    "/x\rX-Evil: 1",
    "/x\rX-Evil:1",
    "/x\x00X-Evil:1",
    "/x\x0bX-Evil:1",
    "/x%0d%0aX-Evil:%201",
    "/x%00",
    "/x%250d%250aX-Evil:1",
)


@pytest.mark.row("H30")
@pytest.mark.parametrize("location", INJECTIONS)
def test_a_location_puts_no_line_into_the_next_request(location: str, odd: Serve, place: Place) -> None:
    file = File(SMALL)

    def habit(exchange: Exchange) -> None:
        if exchange.target == "/a.bin":
            exchange.answer(302, f"Location: {location}")
        else:
            file(exchange)

    server = odd(habit)
    outcome = call("--retries", "0", server.url + "/a.bin", cwd=place.folder)
    assert outcome.code in (0, 6, 14, 17)
    for exchange in server.exchanges[1:]:
        assert exchange.target.lower() == location.lower(), "still encoded"
        assert not [name for name in exchange.headers if "evil" in name]
    assert (len(server.exchanges) == 2) == ("%" in location)


# --- for programs that embed it ---


def test_no_object_shows_its_secrets(tmp_path: Path) -> None:
    secret = {"headers": (f"X-Token: {CANARY}", f"Cookie:{CANARY}"), "user": f"ann:{CANARY}"}
    options = Options(directory=str(tmp_path), proxy=f"http://ann:{CANARY}@host:1", connections=3, **secret)
    url = f"http://ann:{CANARY}@127.0.0.1:9/x?{CANARY}"
    assert "X-Token" in repr(options) and "host:1" in repr(options) and "connections=3" in repr(options)
    assert_clean(repr(options), str(options), f"{options}")
    assert repr(Options()) == "Options()"
    assert pickle.loads(pickle.dumps(options)) == options
    seen: list[object] = []
    with Queue(lambda task, event: seen.append(event)) as manager:
        task = manager.add(url, Options(retries=0, directory=str(tmp_path), **secret))
        manager.run()
        assert_clean(repr(task), repr(task._running), repr(manager))
    assert task.error is not None
    assert_clean(repr(seen), repr(task.error), str(task.error), "".join(traceback.format_exception(task.error)))
    assert_clean(repr(Transfer), *(repr(value) for name, value in vars(errors).items() if not name.startswith("__")))
