"""Try again, when, and when to give up.

Rules of this module: a policy is an immutable value, and a failure turns it into the next value or into the end. Failures are
counted in a row; a byte of progress clears the count. A server's Retry-After is obeyed, within `LONGEST`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from fastidm.errors import AuthError, FastidmError, LimitError, NetworkError, ProtocolError, TlsError, UsageError
from fastidm.records import record, replace

LONGEST = 600.0
"""Seconds: no Retry-After makes us wait longer than this."""


class Trouble(Enum):
    """What went wrong below HTTP; `net` maps libcurl's numbers to these."""

    URL = "the URL is malformed"
    RESOLVE = "the host name cannot be resolved"
    CONNECT = "the connection is refused"
    TIMEOUT = "no answer in time"
    BROKEN = "the connection broke"
    TLS = "the TLS handshake failed"
    CERTIFICATE = "the certificate is not trusted"
    PROXY = "the proxy cannot be used"
    PROXY_AUTH = "the proxy wants other credentials"
    TOO_LARGE = "the answer is larger than it may be"
    MALFORMED = "the answer is not HTTP"
    LOCAL = "the connection cannot be set up here"


PASSING = frozenset((Trouble.RESOLVE, Trouble.CONNECT, Trouble.TIMEOUT, Trouble.BROKEN, Trouble.TLS, Trouble.PROXY))
"""Troubles that may be gone the next time. A bad certificate is not among them."""


def final_error(trouble: Trouble, detail: str = "") -> FastidmError:
    """The error that a trouble becomes when it is final. `detail`: one short printable text, or ""."""
    text = f"{trouble.value} ({detail})" if detail else trouble.value
    if trouble is Trouble.CERTIFICATE:
        return TlsError(text, "--cacert FILE trusts a private CA, --insecure trusts anybody")
    if trouble is Trouble.TLS:
        return TlsError(text)
    if trouble is Trouble.PROXY_AUTH:
        return AuthError(text, "give name and password in the URL of --proxy")
    if trouble is Trouble.TOO_LARGE:
        return LimitError(text)
    if trouble is Trouble.MALFORMED:
        return ProtocolError(text)
    if trouble is Trouble.URL:
        return UsageError(text)
    return NetworkError(text, "check the address and the network; the same command tries again")


@record(frozen=True)
class RetryPolicy:
    """How many failures in a row a task survives, and how long it waits after each.

    `retries`: failures in a row that are survived; `failures`: those so far; `base` and `cap`: seconds of the back-off, which
    doubles and is drawn from its upper half, so that many clients do not come back together.
    """

    retries: int
    failures: int = 0
    base: float = 0.5
    cap: float = 30.0

    def failed(self) -> RetryPolicy:
        """The policy after one more failure; see `spent`."""
        return replace(self, failures=self.failures + 1)

    def progressed(self) -> RetryPolicy:
        """The policy after a byte of progress."""
        return replace(self, failures=0) if self.failures else self

    @property
    def spent(self) -> bool:
        return self.failures > self.retries

    def delay(self, chance: Callable[[], float], asked: float | None = None) -> float:
        """Seconds to wait before the next try.

        Parameters: `chance`, gives a number in [0, 1); `asked`, the server's Retry-After in seconds, or None.
        """
        if asked is not None:
            return min(asked, LONGEST)
        longest = min(self.base * (1 << max(0, min(self.failures - 1, 20))), self.cap)
        return longest * (0.5 + chance() / 2)


def retry_after(text: str | None, now_utc: float) -> float | None:
    """Seconds to wait by a Retry-After field, in either form of RFC 9110 section 10.2.3; a date in the past is 0.

    Returns None for an absent field and for one that is neither.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return float(text)
    when = parse_http_date(text)
    return None if when is None else max(0.0, when - now_utc)


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def parse_http_date(text: str) -> float | None:
    """Seconds since the epoch of an IMF-fixdate ("Sun, 06 Nov 1994 08:49:37 GMT"); None for anything else."""
    from datetime import UTC, datetime

    try:
        _, day, month, year, clock, zone = text.replace(",", " ").split()
        hour, minute, second = (int(n) for n in clock.split(":"))
        if zone.upper() not in ("GMT", "UTC"):
            return None
        date = datetime(int(year), _MONTHS.index(month.lower()) + 1, int(day), hour, minute, second, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    seconds: float = date.timestamp()
    return seconds
