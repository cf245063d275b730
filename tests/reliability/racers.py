"""Several commands that begin at the same moment: `python -m tests.reliability.racers`.

Rules of this module: one process loads everything and forks others, which wait at a barrier and then are the command, each
for itself; so they meet within microseconds and not within the time that an interpreter needs. A line on stdin is a race, a
JSON list: how many there are, and their arguments. The answer is a line too: of each racer its exit code and its stderr.
"""

from __future__ import annotations

import json
import os
import sys

import fastidm.queue
import fastidm.storage.journal
from fastidm.cli.main import run

LOADED = (fastidm.queue, fastidm.storage.journal)


def race(count: int, arguments: list[str]) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    barrier, start = os.pipe()
    racers = []
    for _ in range(count):
        words, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(start)
            os.dup2(write, 2)
            os.read(barrier, 1)  # ends when nobody can write any more
            code = 1
            try:
                code = run(arguments)
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        racers.append((pid, words))
    os.close(barrier)
    os.close(start)
    ends = []
    for pid, words in racers:
        with open(words, encoding="utf-8") as pipe:
            text = pipe.read()
        ends.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text))
    return ends


def main() -> None:
    for line in sys.stdin:
        count, *arguments = json.loads(line)
        print(json.dumps(race(count, arguments)), flush=True)


if __name__ == "__main__":
    main()
