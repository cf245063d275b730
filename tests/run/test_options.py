"""Every option does what its help says, as the server sees it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.errors import NetworkError, RedirectError
from fastidm.options import Options
from tests.support.alone import download
from tests.support.command import call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Habit, OddServer, Proxy
from tests.support.servers import CA, Nginx

MIB = 1 << 20
SIZE = 3 * MIB
DATA = content(SIZE, seed=21)
SMALL = DATA[:5000]
Serve = Callable[[Habit], OddServer]


def succeeds(folder: Path, *arguments: object) -> None:
    """Run the command in this process; it has to download DATA (or SMALL) in silence, as the only file."""
    outcome = call("--quiet", *arguments, cwd=folder)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    (file,) = folder.iterdir()
    assert first_difference(file.read_bytes(), DATA if file.stat().st_size == SIZE else SMALL) is None


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


# --- integrity ---


@pytest.mark.parametrize("form", ["{name}:{digest}", "{name}={digest}", "{NAME}:{DIGEST}"])
@pytest.mark.parametrize("name", ["sha256", "sha-256", "md5", "sha1", "blake2b", "sha3_512"])
def test_a_right_checksum_in_every_form(name: str, form: str, nginx: Nginx, folder: Path) -> None:
    algorithm = name.replace("-", "")
    digest = hashlib.new(algorithm, SMALL).hexdigest()
    checksum = form.format(name=name, digest=digest, NAME=name.upper(), DIGEST=digest.upper())
    outcome = call("--json", "--checksum", checksum, nginx.add("a.bin", SMALL), cwd=folder)
    assert outcome.done["checksum"] == f"{algorithm}:{digest}"


def promising(data: bytes) -> str:
    return f"Repr-Digest: sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
def test_a_digest_that_the_server_gives_is_verified_without_being_asked_for(data: bytes, odd: Serve, folder: Path) -> None:
    server = odd(File(data, lines=(promising(data),)))
    outcome = call("--json", server.url + "/a.bin", cwd=folder)
    assert outcome.done["checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
def test_a_file_without_the_digest_that_the_server_gives_is_not_kept(data: bytes, odd: Serve, folder: Path) -> None:
    server = odd(File(data, lines=(promising(b"another"),)))
    outcome = call("--quiet", server.url + "/a.bin", cwd=folder)
    assert outcome.code == 15
    assert hashlib.sha256(b"another").hexdigest() in outcome.complaint
    assert os.listdir(folder) == []


def test_the_summary_shows_the_checksum_that_was_asked_for(nginx: Nginx, folder: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    outcome = run("--checksum", f"sha256:{digest}", nginx.add("a.bin", DATA), cwd=folder)
    assert outcome.code == 0
    assert digest in outcome.stderr.splitlines()[-1]


def test_no_sync_changes_nothing_but_the_waiting(nginx: Nginx, folder: Path) -> None:
    succeeds(folder, "--no-sync", nginx.add("a.bin", DATA))


# --- what the server is told ---


def test_headers_and_the_user_agent_go_with_every_request(odd: Serve, folder: Path, tmp_path: Path) -> None:
    more = tmp_path / "headers"
    more.write_text("X-Third: 3\nX-Fourth: four: 4\n")
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        exchange.send(body[:1000])
        exchange.server.wait_for(lambda: exchange.gone() or len(server.exchanges) > 1, "a second request")
        exchange.send(body[1000:])

    server = odd(habit)
    headers = ("-H", "X-First: 1", "--header", "X-Second:2", "--header", f"@{more}")
    succeeds(folder, *headers, "-A", "my agent/1.0", server.url + "/a.bin")
    assert len(server.exchanges) > 1
    for exchange in server.exchanges:
        sent = exchange.headers
        assert [sent[f"x-{name}"] for name in ("first", "second", "third", "fourth")] == ["1", "2", "3", "four: 4"]
        assert sent["user-agent"] == "my agent/1.0"
        assert sent["accept-encoding"] == "identity"


def test_without_options_we_call_ourselves_by_our_name_and_say_no_more(odd: Serve, folder: Path) -> None:
    server = odd(File(SMALL))
    succeeds(folder, server.url + "/a.bin")
    (exchange,) = server.exchanges
    assert exchange.headers["user-agent"].startswith("fastidm/")
    assert set(exchange.headers) == {"host", "user-agent", "accept", "accept-encoding", "range"}


def test_a_user_and_password_open_the_door(special: Nginx, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = special.add("a.bin", DATA).removeprefix(special.url)
    url = f"{special.url}/private{path}"
    assert call("--quiet", url, cwd=folder).code == 18
    assert call("--quiet", "--user", "ann:wrong", url, cwd=folder).code == 18
    assert os.listdir(folder) == []
    succeeds(folder, "--user", "ann:s3cret", url)
    succeeds(folder, "--overwrite", url.replace("://", "://ann:s3cret@"))
    monkeypatch.setenv("FASTIDM_PASSWORD", "s3cret")
    succeeds(folder, "--overwrite", "--user", "ann", url)


def test_netrc_opens_the_door_when_it_is_asked_for(special: Nginx, folder: Path, tmp_path: Path) -> None:
    path = special.add("a.bin", DATA).removeprefix(special.url)
    url = f"{special.url}/private{path}"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    home = {"HOME": str(tmp_path)}
    assert run("--quiet", url, cwd=folder, env=home).code == 18
    assert run("--quiet", "--netrc", url, cwd=folder, env=home).code == 0
    assert (folder / "a.bin").read_bytes() == DATA


def test_cookies_go_to_the_server_that_they_are_for(odd: Serve, folder: Path, tmp_path: Path) -> None:
    jar = tmp_path / "cookies.txt"
    jar.write_text(
        "# Netscape HTTP Cookie File\n"
        "127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc123\n"
        "127.0.0.1\tFALSE\t/elsewhere\tFALSE\t0\tpath\tno\n"
        "127.0.0.1\tFALSE\t/\tFALSE\t1000000000\texpired\tno\n"
        ".example.com\tTRUE\t/\tFALSE\t0\tother\tno\n"
    )
    server = odd(File(DATA))
    before = jar.read_bytes()
    succeeds(folder, "--cookie-file", jar, server.url + "/a.bin")
    assert {exchange.headers.get("cookie") for exchange in server.exchanges} == {"session=abc123"}
    assert jar.read_bytes() == before


# --- secrets stay where they belong ---


def secrets_in(exchanges: list[Exchange]) -> set[str]:
    """Which of the secrets of `secretive` a server has seen."""
    text = "\n".join(exchange.head_text for exchange in exchanges).lower()
    marks = {"header": "x-secret", "own authorization": "bearer", "password": "authorization: basic", "canary": "canary"}
    return {name for name, mark in marks.items() if mark in text}


@pytest.mark.parametrize(
    "secretive",
    [
        ("--header", "X-Secret: canary"),
        ("--header", "Authorization: Bearer canary"),
        ("--header", "Cookie: canary"),
        ("--user", "ann:canary"),
        ("--netrc",),
        ("in the URL",),
    ],
    ids=lambda words: words[-1].partition(":")[0],
)
def test_a_redirect_to_another_server_takes_no_secrets_along(
    secretive: tuple[str, ...], odd: Serve, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    there = odd(File(DATA))
    here = odd(lambda exchange: exchange.answer(302, f"Location: {there.url}/there.bin"))
    url = here.url + "/a.bin"
    if secretive == ("in the URL",):
        secretive, url = (), url.replace("://", "://ann:canary@")
    succeeds(folder, *secretive, url)
    assert secrets_in(here.exchanges), "the server that was asked gets them"
    assert secrets_in(there.exchanges) == set(), "the other one does not"
    assert not {"authorization", "cookie", "referer"} & {name for each in there.exchanges for name in each.headers}


def test_a_redirect_within_the_server_keeps_the_secrets(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if exchange.target == "/a.bin":
            exchange.answer(302, "Location: deeper/b.bin")
        else:
            file(exchange)

    server = odd(habit)
    succeeds(folder, "--header", "X-Secret: canary", "--user", "ann:pass", server.url + "/a.bin")
    assert {exchange.target for exchange in server.exchanges} == {"/a.bin", "/deeper/b.bin"}
    for exchange in server.exchanges:
        assert exchange.headers["x-secret"] == "canary"
        assert exchange.headers["authorization"] == basic("ann:pass")


def test_a_redirect_there_and_back_gives_the_secrets_to_their_own_server_alone(odd: Serve, folder: Path) -> None:
    file = File(SMALL)
    there = odd(lambda exchange: exchange.answer(302, f"Location: {here.url}/b.bin"))

    def habit(exchange: Exchange) -> None:
        if exchange.target == "/a.bin":
            exchange.answer(302, f"Location: {there.url}/x")
        else:
            file(exchange)

    here = odd(habit)
    succeeds(folder, "--header", "X-Secret: canary", here.url + "/a.bin")
    assert [("x-secret" in exchange.headers) for exchange in here.exchanges] == [True, True]
    assert secrets_in(there.exchanges) == set()


def test_a_password_in_a_location_is_for_that_location_alone(odd: Serve, folder: Path) -> None:
    there = odd(File(SMALL))
    here = odd(lambda exchange: exchange.answer(302, "Location: " + there.url.replace("://", "://bob:builder@") + "/there.bin"))
    succeeds(folder, "--user", "ann:canary", here.url + "/a.bin")
    assert [exchange.headers.get("authorization") for exchange in there.exchanges] in ([basic("bob:builder")], [None])


# --- proxies ---


def test_a_proxy_passes_plain_requests_on(odd: Serve, nginx: Nginx, folder: Path) -> None:
    proxy = odd(Proxy())
    url = nginx.add("a.bin", DATA)
    succeeds(folder, "--proxy", proxy.url, url)
    assert {(exchange.method, exchange.target) for exchange in proxy.exchanges} == {("GET", url)}


def test_a_proxy_tunnels_tls_and_sees_no_secret(odd: Serve, tls_nginx: Nginx, ca: CA, folder: Path) -> None:
    proxy = odd(Proxy())
    url = tls_nginx.add("a.bin", DATA)
    secrets = ("--header", "X-Secret: canary", "--header", "Authorization: Bearer canary")
    succeeds(folder, "--cacert", ca.file, "-x", proxy.url, *secrets, url + "?token=canary")
    assert {exchange.method for exchange in proxy.exchanges} == {"CONNECT"}
    assert secrets_in(proxy.exchanges) == set()


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_that_wants_a_password_gets_its_own(
    tls: bool, odd: Serve, nginx: Nginx, tls_nginx: Nginx, ca: CA, folder: Path
) -> None:
    proxy = odd(Proxy("ann:s3cret"))
    url = (tls_nginx if tls else nginx).add("a.bin", DATA)
    outcome = call("--quiet", "--cacert", ca.file, "-x", proxy.url, url, cwd=folder)
    assert outcome.code == 18
    assert "proxy" in outcome.complaint
    assert call("--quiet", "--cacert", ca.file, "-x", proxy.url, "--user", "ann:s3cret", url, cwd=folder).code == 18
    assert os.listdir(folder) == []
    succeeds(folder, "--cacert", ca.file, "-x", proxy.url.replace("://", "://ann:s3cret@"), url)


def test_the_environment_names_a_proxy_unless_an_option_does(
    odd: Serve, nginx: Nginx, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_environment, by_option = odd(Proxy()), odd(Proxy())
    monkeypatch.setenv("http_proxy", by_environment.url)
    url = nginx.add("a.bin", SMALL)
    succeeds(folder, url)
    assert (len(by_environment.exchanges), len(by_option.exchanges)) == (1, 0)
    succeeds(folder, "--overwrite", "--proxy", by_option.url, url)
    succeeds(folder, "--overwrite", "--proxy", "", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    succeeds(folder, "--overwrite", url)
    assert (len(by_environment.exchanges), len(by_option.exchanges)) == (1, 1)


def test_a_proxy_that_is_not_there_is_the_networks_fault(folder: Path, nginx: Nginx) -> None:
    url = nginx.add("a.bin", SMALL)
    assert call("--quiet", "--retries", "0", "-x", "http://127.0.0.1:9", url, cwd=folder).code == 6
    assert nginx.requests(url) == []


# --- TLS ---


def test_insecure_accepts_any_certificate(tls_nginx: Nginx, folder: Path) -> None:
    succeeds(folder, "--insecure", tls_nginx.add("a.bin", DATA))


def test_a_client_certificate_opens_the_door(server_folders: tuple[Path, Path], ca: CA, folder: Path) -> None:
    mine = ca.issue("client@example.com")
    # Only the files want it: whoever asks whether the server is ready has none.
    only = "location / { if ($ssl_client_verify != SUCCESS) { return 403; } }"
    extra = f'ssl_client_certificate "{ca.file}"; ssl_verify_client optional; {only}'
    with Nginx(*server_folders, ca.issue("127.0.0.1"), extra=extra) as server:
        url = server.add("a.bin", DATA)
        assert call("--quiet", "--cacert", ca.file, url, cwd=folder).code == 4
        succeeds(folder, "--cacert", ca.file, "--cert", mine.chain, "--key", mine.key, url)


# --- where to ---


def test_o_and_d_say_where_the_file_goes(nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", SMALL)
    (folder / "sub").mkdir()
    for arguments, path in (
        (("-d", "sub"), "sub/a.bin"),
        (("-o", "mine"), "mine"),
        (("-d", "sub", "-o", "mine"), "sub/mine"),
        (("-o", "sub/other"), "sub/other"),
        (("-o", str(folder / "absolute")), "absolute"),
        (("-d", "sub", "-o", str(folder / "beside")), "beside"),
    ):
        outcome = call("--json", *arguments, url, cwd=folder)
        assert outcome.done["path"] == str(folder / path), arguments
        assert (folder / path).read_bytes() == SMALL


def test_overwrite_replaces_the_file_at_the_end_and_not_before(nginx: Nginx, odd: Serve, folder: Path) -> None:
    (folder / "a.bin").write_text("old")
    bad = odd(lambda exchange: exchange.answer(404))
    assert call("--quiet", "--overwrite", bad.url + "/a.bin", cwd=folder).code == 3
    assert (folder / "a.bin").read_text() == "old"
    succeeds(folder, "--overwrite", nginx.add("a.bin", DATA))


# --- speed, patience ---


@pytest.mark.parametrize("connections", [1, 8])
def test_a_rate_limit_holds_for_all_connections_together(connections: int, nginx: Nginx, folder: Path) -> None:
    rate = 2 * MIB
    done = download(nginx.add("a.bin", DATA), Options(directory=str(folder), limit_rate=rate, connections=connections))
    # A quarter of a second may come at once; a kernel's buffer full of it is already here when the pause begins.
    assert 0.8 * (SIZE - rate / 4) / rate <= done.seconds <= 3 * SIZE / rate
    assert (folder / "a.bin").read_bytes() == DATA


def test_the_ceiling_of_connections_holds(odd: Serve, folder: Path) -> None:
    file = File(DATA)
    server = odd(file)
    succeeds(folder, "--conn", "1", server.url + "/a.bin")
    assert len({exchange.number for exchange in server.exchanges}) == 1


@pytest.mark.parametrize("retries", [2, 3])
def test_as_many_failures_in_a_row_as_allowed_are_survived(retries: int, odd: Serve, folder: Path) -> None:
    file = File(SMALL)

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) <= 3:
            exchange.answer(503, "Retry-After: 0")
        else:
            file(exchange)

    server = odd(habit)
    outcome = call("--quiet", "--retries", retries, server.url + "/a.bin", cwd=folder)
    assert (outcome.code, len(server.exchanges)) == ((0, 4) if retries == 3 else (5, 3))


def test_progress_clears_the_count_of_failures(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        exchange.send(body[:500_000])
        if len(body) > 500_000:
            exchange.close()

    succeeds(folder, "--retries", "1", "--conn", "1", odd(habit).url + "/a.bin")


def falls_silent(exchange: Exchange) -> None:
    exchange.send(File(DATA).head(exchange)[:100_000])
    exchange.hold()


def never_answers(exchange: Exchange) -> None:
    exchange.hold()


def answers_in_half(exchange: Exchange) -> None:
    exchange.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n")
    exchange.hold()


@pytest.mark.parametrize("habit", [falls_silent, never_answers, answers_in_half])
def test_a_silent_server_is_given_up_after_the_time_that_was_said(habit: Habit, odd: Serve, folder: Path) -> None:
    options = Options(directory=str(folder), timeout=1, connect_timeout=1, retries=0)
    with pytest.raises(NetworkError):
        download(odd(habit).url + "/a.bin", options)
    assert "a.bin" not in os.listdir(folder)


def test_what_came_before_a_silence_is_kept(odd: Serve, folder: Path) -> None:
    server = odd(falls_silent)
    assert call("--quiet", "--timeout", "1", "--retries", "0", server.url + "/a.bin", cwd=folder).code == 6
    server.habit = File(DATA)
    assert call("--json", server.url + "/a.bin", cwd=folder).done["resumed"] >= 100_000
    assert (folder / "a.bin").read_bytes() == DATA


def test_redirects_are_followed_as_far_as_allowed(odd: Serve, folder: Path) -> None:
    file = File(SMALL)

    def habit(exchange: Exchange) -> None:
        hop = int(exchange.target[2:])
        if hop < 3:
            exchange.answer(302, f"Location: /a{hop + 1}")
        else:
            file(exchange)

    server = odd(habit)
    with pytest.raises(RedirectError):
        download(server.url + "/a0", Options(directory=str(folder), max_redirects=2))
    assert download(server.url + "/a0", Options(directory=str(folder), max_redirects=3)).path == str(folder / "a0")
