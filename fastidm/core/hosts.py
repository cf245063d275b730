"""What all tasks know of servers: when one may be asked again, and how many are asking.

Rule of this module: it remembers what servers asked for in Retry-After and nothing else; a limit that one task found is that
task's own.
"""

from __future__ import annotations

from collections import Counter

from fastidm.core.redirect import origin


class Hosts:
    """The servers that tasks download from; shared by all tasks of an engine."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}
        self._tasks: Counter[str] = Counter()

    def join(self, url: str) -> None:
        """A task begins to download from the server of `url`."""
        self._tasks[origin(url)] += 1

    def leave(self, url: str) -> None:
        """A task that has joined is over."""
        host = origin(url)
        self._tasks[host] -= 1
        if not self._tasks[host]:
            del self._tasks[host]

    def tasks(self, url: str) -> int:
        """How many download from the server of `url`."""
        return self._tasks[origin(url)]

    def hold(self, url: str, until: float, now: float) -> None:
        """The server of `url` wants no request before `until`."""
        self._free_at = {host: at for host, at in self._free_at.items() if at > now}
        self._free_at[origin(url)] = max(until, self.free_at(url))

    def free_at(self, url: str) -> float:
        """When the server of `url` may be asked again; 0.0 if it never minded."""
        return self._free_at.get(origin(url), 0.0)
