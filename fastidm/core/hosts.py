"""What all tasks know of servers: when one may be asked again.

Rule of this module: it remembers what servers asked for in Retry-After and nothing else; a limit that one task found is that
task's own.
"""

from __future__ import annotations

from fastidm.core.redirect import origin


class Hosts:
    """The servers that asked to wait; shared by all tasks of an engine."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}

    def hold(self, url: str, until: float, now: float) -> None:
        """The server of `url` wants no request before `until`."""
        self._free_at = {host: at for host, at in self._free_at.items() if at > now}
        self._free_at[origin(url)] = max(until, self.free_at(url))

    def free_at(self, url: str) -> float:
        """When the server of `url` may be asked again; 0.0 if it never minded."""
        return self._free_at.get(origin(url), 0.0)
