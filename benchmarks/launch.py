"""Start one command and tell what it used. A process of its own, run as `python -I -S launch.py`.

Rules of this script: it stays small. Linux lets a child's peak memory begin with that of the process that started it, so what
the suite itself has loaded would be counted as the tool's. The bound that is left is this script's own size, about 10 MiB.

Standard input: one line of JSON with `command` (absolute path first), `cwd`, `env`, `output`. Standard output: a line when it
began, with `pid` (which leads a process group) and `begun`, and one when it ended, with `ended`, `status`, `user`, `system`
and `rss`. Clocks are monotonic, in nanoseconds; `rss` is in bytes.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    import json

    wish = json.loads(sys.stdin.readline())
    os.chdir(wish["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, wish["output"], flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = wish["command"]
    begun = time.monotonic_ns()
    pid = os.posix_spawn(command[0], command, wish["env"], file_actions=actions, setpgroup=0)
    print(json.dumps({"pid": pid, "begun": begun}), flush=True)
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic_ns()
    result = {
        "ended": ended,
        "status": os.waitstatus_to_exitcode(status),
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "rss": usage.ru_maxrss * 1024,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
