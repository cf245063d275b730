"""Who may have how many of the connections that all tasks may have together.

Rules of this module: every running task may have one; so no more tasks may run than there are connections. What is left is
given out evenly, whatever each of them would like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def may_join(host: str, running: Sequence[str], total: int, per_host: int) -> bool:
    """Whether one more task, with `host`, may run beside those with the hosts `running`."""
    return len(running) < total and running.count(host) < per_host


def shares(hosts: Sequence[str], total: int, per_host: int) -> list[int]:
    """How many connections each task may have.

    Parameters: `hosts`, of each running task; `total`, connections of all tasks; `per_host`, of all tasks with one host.
    """
    of_host = Counter(hosts)
    before: Counter[str] = Counter()
    found = []
    for place, host in enumerate(hosts):
        of_all = _part(total, len(hosts), place)
        found.append(max(1, min(of_all, _part(per_host, of_host[host], before[host]))))
        before[host] += 1
    return found


def _part(whole: int, parts: int, place: int) -> int:
    """The part at `place` when `whole` is given out to `parts` as evenly as can be."""
    return whole // parts + (place < whole % parts)
