"""From options to libcurl: what one request is told.

Rules of this module:

* fastidm follows redirects itself (`core.redirect`), so libcurl never does; http and https only, whatever the URL says.
* Secrets of the user (headers, name and password, netrc, client certificate) go to the origin of the user's own URL and to
  no other. The cookies of a file go where that file says; it knows no ports, so to another origin on the usual ones only.
* Segments use HTTP/1.1 unless something else is asked for. Over HTTP/2 and 3 each has its own connection as well (see
  `Transfers`): libcurl would let all of them share one, and its window.
* `Accept-Encoding: identity` always, since an encoded part cannot be placed.
"""

from __future__ import annotations

import os

from fastidm import __version__
from fastidm.core.redirect import origin
from fastidm.errors import UsageError, redact
from fastidm.net.curl import pycurl
from fastidm.options import Options

BUFFER = 512 << 10
"""Bytes that libcurl may read from a socket at once. It still hands over 16 KiB a call, but receives three times cheaper than
with its default of 16 KiB (measured on loopback)."""

_NEWER = {"2": (1 << 16, 4), "3": (1 << 25, 30)}
"""HTTP version -> (bit in libcurl's features, CURL_HTTP_VERSION_2TLS or _3): numbers, since not every pycurl names them. Both
mean: over https, and what the server has below it otherwise."""

_SUPPRESS_CONNECT_HEADERS = 265
"""CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name: a proxy's answer to CONNECT is not the server's head."""


def configure(curl: pycurl.Curl, options: Options, url: str, first: int | None, last: int | None, *, trusted: bool) -> None:
    """Set everything that a fresh (or reset) handle needs for one request.

    Parameters: as of `aim`; `trusted`, `url` has the origin of the user's own URL, so it gets the user's secrets.
    """
    aim(curl, url, first, last)
    set = curl.setopt
    set(pycurl.NOSIGNAL, 1)
    set(pycurl.NOPROGRESS, 1)
    set(pycurl.FOLLOWLOCATION, 0)
    set(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    set(pycurl.HTTP_VERSION, _http_version(options.http))
    set(pycurl.BUFFERSIZE, _buffer_size(options))
    set(pycurl.TCP_NODELAY, 1)
    set(pycurl.TCP_KEEPALIVE, 1)
    set(pycurl.CONNECTTIMEOUT_MS, max(1, int(options.connect_timeout * 1000)))
    set(_SUPPRESS_CONNECT_HEADERS, 1)
    set(pycurl.USERAGENT, _bytes(options.user_agent or f"fastidm/{__version__}"))
    headers = [b"Accept-Encoding: identity"]
    if trusted:
        headers += map(_bytes, options.headers)
        if options.user is not None:
            name, _, password = options.user.partition(":")
            set(pycurl.USERNAME, _bytes(name))
            set(pycurl.PASSWORD, _bytes(password))
        if options.netrc:
            set(pycurl.NETRC, pycurl.NETRC_OPTIONAL)
    set(pycurl.HTTPHEADER, headers)
    if options.cookie_file is not None and (trusted or _port_is_usual(url)):
        set(pycurl.COOKIEFILE, os.fsencode(options.cookie_file))
    if options.proxy is not None:
        set(pycurl.PROXY, _bytes(options.proxy))
    _configure_tls(curl, options, trusted)


def aim(curl: pycurl.Curl, url: str, first: int | None, last: int | None) -> None:
    """Set what differs between two requests with the same options.

    Parameters: `first`, `last`, the range, inclusive; `first` None: no Range; `last` None: to the end.
    """
    curl.setopt(pycurl.URL, ascii_url(url))
    if first is None:
        curl.unsetopt(pycurl.RANGE)
    else:
        curl.setopt(pycurl.RANGE, f"{first}-{'' if last is None else last}")


def _http_version(version: str) -> int:
    """What libcurl calls it. Raises `UsageError` where libcurl was built without it."""
    if version == "1.1":
        return int(pycurl.CURL_HTTP_VERSION_1_1)
    known = pycurl.version_info()
    feature, number = _NEWER[version]
    if not known[4] & feature:
        raise UsageError(f"libcurl {known[1]} was built without HTTP/{version}", "leave out --http, or install another pycurl")
    return number


def ascii_url(url: str) -> str:
    """`url` as it goes over the wire: a host in IDNA, everything else that is not ASCII percent-encoded as UTF-8.

    Raises `UsageError` for a host that cannot be written so.
    """
    if url.isascii():
        return url
    scheme, _, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    user, at_sign, host = rest[:end].rpartition("@")
    try:
        name, colon, port = host.partition(":")
        host = (name if name.isascii() else name.encode("idna").decode("ascii")) + colon + port
    except UnicodeError:
        raise UsageError(f"a host name that cannot be: {redact(url)}") from None
    return f"{scheme}://{_quoted(user)}{at_sign}{host}{_quoted(rest[end:])}"


def _quoted(text: str) -> str:
    return "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "replace")) for c in text)


def _port_is_usual(url: str) -> bool:
    return ":" not in origin(url).partition("://")[2].rpartition("]")[2]


def _bytes(text: str) -> bytes:
    """As UTF-8; bytes of a command line that are no text go out as they came."""
    return text.encode("utf-8", "surrogateescape")


def _configure_tls(curl: pycurl.Curl, options: Options, trusted: bool) -> None:
    set = curl.setopt
    if options.insecure:
        set(pycurl.SSL_VERIFYPEER, 0)
        set(pycurl.SSL_VERIFYHOST, 0)
    if options.cacert is not None:
        set(pycurl.CAINFO, os.fsencode(options.cacert))
    if trusted and options.cert is not None:
        set(pycurl.SSLCERT, os.fsencode(options.cert))
    if trusted and options.key is not None:
        set(pycurl.SSLKEY, os.fsencode(options.key))


def _buffer_size(options: Options) -> int:
    # A rate limit is kept by pausing, and what libcurl has read by then (ten buffers at most, for each connection) can no
    # longer be refused.
    if options.limit_rate is None:
        return BUFFER
    return min(BUFFER, max(1024, options.limit_rate // 640))
