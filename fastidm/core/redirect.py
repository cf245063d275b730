"""Where a redirect leads, and whether it may be followed.

Rules of this module: http and https only, not from https down to http unless the user allows it, and not more hops
than the user allows. Whose secrets go along is `net.setup`'s business.
"""

from __future__ import annotations

from functools import lru_cache

from fastidm.errors import RedirectError


def follow(url: str, location: str, hops: int, most: int, *, downgrade: bool = False) -> str | RedirectError:
    """The absolute URL that `location` means, seen from `url`, or the error that ends the task.

    Parameters: `hops`, redirects so far, this one included; `most`, how many are allowed; `downgrade`, https may lead
    to http.
    """
    from urllib.parse import urljoin, urlsplit

    if hops > most:
        return RedirectError(f"more than {most} redirects", "raise --max-redirects if that is meant")
    location = location.strip(" \t")
    if any(c < " " for c in location):  # `urljoin` would drop some of them, and what is left is not what was sent
        return RedirectError("a redirect to a URL with control characters")
    try:
        # Servers send UTF-8 where only ASCII is allowed; what we hold is Latin-1, so each character is one byte of it.
        there = urljoin(url, "".join(f"%{ord(c):02X}" if "\x7f" < c <= "\xff" else c for c in location))
        scheme, host, _ = urlsplit(there).scheme, urlsplit(there).hostname, urlsplit(there).port
    except ValueError:
        return RedirectError("a redirect to something that is no URL")
    if host and "%" in host:
        return RedirectError("a redirect to a host whose name is not ASCII")
    if scheme not in ("http", "https") or not host:
        return RedirectError("a redirect to something that is not http or https")
    if not (there.isascii() and there.isprintable()) or " " in there:
        return RedirectError("a redirect to a URL with spaces or control characters")
    if scheme == "http" and url.lower().startswith("https:") and not downgrade:
        return RedirectError("a redirect from https down to http", "--allow-downgrade follows it, without your secrets")
    return there


def origin(url: str) -> str:
    """Scheme, host and port of `url`, in one spelling: what decides who may see the user's secrets."""
    return _origin(url[: url.find("/", url.find("://") + 3) + 1] or url)


@lru_cache(maxsize=64)  # it is asked several times for each request, and most requests go to a few servers
def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0].rpartition("@")[2].lower()
    default = {"http": ":80", "https": ":443"}.get(scheme.lower(), "")
    return f"{scheme.lower()}://{authority.removesuffix(default)}"
