"""What the tests of the whole command share: an empty folder to run in, and servers made to measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import Caddy, Nginx, Server

ERRORS = """
    location = /gone { return 410; }
    location = /forbidden { return 403; }
    location = /unavailable { return 503; }
    location /private/ { alias "FOLDER/"; auth_basic here; auth_basic_user_file users; }
    location /named/ { alias "FOLDER/"; add_header Content-Disposition 'attachment; filename="$arg_name"'; }
    location /relative/ { rewrite ^/relative/(.*)$ ../../$1 redirect; absolute_redirect off; }
    location = /loop { return 302 /loop; }
    location = /plain { return 302 http://127.0.0.1:9/x; }
"""

USER = "ann:s3cret"


@pytest.fixture(scope="session")
def plain_caddy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    """Caddy over plain HTTP/1.1, for the whole run."""
    with Caddy(tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("plain-caddy")) as server:
        yield server


@pytest.fixture(scope="session")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx with places that refuse, redirect, want a password (`USER`), or name their files; see `ERRORS`."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("special-nginx")
    name, _, password = USER.partition(":")
    (home / "users").write_text(f"{name}:{{PLAIN}}{password}\n")
    with Nginx(folder, home, extra=ERRORS.replace("FOLDER", str(folder))) as server:
        yield server


@pytest.fixture(scope="session", params=["nginx", "tls_nginx", "plain_caddy", "caddy"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """Each of the real servers in turn: two programs, with and without TLS."""
    server: Server = request.getfixturevalue(request.param)
    return server
