"""libcurl's error numbers, told in the words of `core.retry`. Mapped once, here.

Numbers, not names: they are libcurl's stable ABI (curl/curl.h, CURLcode), and pycurl does not name all of them.
"""

from __future__ import annotations

from fastidm.core.retry import Trouble
from fastidm.errors import printable

WRITE_ERROR = 23
"""The sink took less than it was given: it is full, or failed."""

SEND_ERROR = 55
"""Also how QUIC finds that nobody listens."""

_TROUBLES = {
    1: Trouble.MALFORMED,  # unsupported protocol
    3: Trouble.URL,
    5: Trouble.PROXY,  # the proxy's name cannot be resolved
    6: Trouble.RESOLVE,
    7: Trouble.CONNECT,
    8: Trouble.MALFORMED,  # weird server reply
    28: Trouble.TIMEOUT,
    35: Trouble.TLS,  # handshake
    45: Trouble.LOCAL,  # interface failed
    53: Trouble.LOCAL,  # no crypto engine
    58: Trouble.CERTIFICATE,  # our own certificate
    59: Trouble.CERTIFICATE,  # cipher
    60: Trouble.CERTIFICATE,  # the peer's certificate, or its host name
    61: Trouble.MALFORMED,  # bad content encoding
    77: Trouble.CERTIFICATE,  # CA file
    83: Trouble.CERTIFICATE,  # issuer
    90: Trouble.CERTIFICATE,  # pinned key
    91: Trouble.CERTIFICATE,  # stapled status
    96: Trouble.CONNECT,  # by QUIC
    97: Trouble.PROXY,
    98: Trouble.CERTIFICATE,  # the server wants a certificate of ours
    100: Trouble.TOO_LARGE,
}
"""Everything else (resets, short bodies, streams of HTTP/2 and 3 that broke) is `Trouble.BROKEN`."""


def trouble_of(code: int, message: str) -> tuple[Trouble, str]:
    """(trouble, one short printable detail) of a failed transfer, from libcurl's code and message."""
    if message.startswith("Unsupported proxy"):  # and then its whole address, password included
        return Trouble.LOCAL, "the proxy's address cannot be used"
    detail = printable(message.strip())[:200] if "@" not in message else ""
    if "CONNECT tunnel failed" in message:
        return (Trouble.PROXY_AUTH, "") if "407" in message else (Trouble.PROXY, detail)
    if code == SEND_ERROR and message.startswith("Failed to connect"):
        return Trouble.CONNECT, detail
    return _TROUBLES.get(code, Trouble.BROKEN), detail
