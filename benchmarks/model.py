"""The words of the suite: what a tool is, what a scenario is, what one run gave.

Rules of this module: names of `Run`'s fields are the names in the JSON lines, and are never changed. Times are seconds, sizes
are bytes, `sent` is what the server sent (heads included).
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Unable(Exception):
    """The tool is here, but cannot do what the scenario asks for; the text says what. It is reported, and is no failure."""


class Extra(NamedTuple):
    """What a scenario may ask for beside a URL, a path and a number of connections."""

    cacert: str = ""
    """File of the certificate to trust."""
    resume: bool = False
    """Go on with what an earlier run of the same command left."""
    checksum: str = ""
    """Hexadecimal SHA-256 that the tool shall verify."""
    http2: bool = False
    http3: bool = False
    """Only tools with `http3 = True` are asked."""
    size: int = 0
    """Of the file. For the baseline alone: tools find it out."""


class Tool(Protocol):
    """A file in `benchmarks/tools/`. What else it may have: see `benchmarks.tools`."""

    label: str

    def version(self) -> str | None: ...
    def command(self, url: str, path: str, connections: int, extra: Extra) -> list[str]: ...


class Counts(NamedTuple):
    """What a server counted since it was reset."""

    sent: int
    requests: int
    connections: int
    cpu: float
    """Seconds of processor time of the server itself."""
    first_request: float | None = None
    """On the monotonic clock of this machine; None when the server does not tell."""


class Origin(Protocol):
    """A running server with the files of one scenario."""

    cacert: str

    def url_of(self, name: str) -> str: ...
    def reset(self) -> None: ...
    def counts(self) -> Counts: ...


class Site(NamedTuple):
    """Where an origin finds what it needs: `served`, its files; `home`, an empty folder."""

    served: Path
    home: Path


@dataclass(frozen=True)
class Scenario:
    """One row of circumstances. Sizes are those of all files together."""

    name: str
    title: str
    about: str
    size: int
    quick: int
    origin: Callable[[Site], AbstractContextManager[Origin]]
    ideal: Callable[[int, int], float] | None = None
    """(bytes, connections) → seconds that the server's rates allow; None where nothing is throttled."""
    kind: str = "one"
    """one file; many files; resume: killed in the middle and run again."""
    sizes: Callable[[int], list[int]] = lambda total: [total]
    connections: int = 16
    parallel: int = 16
    """Files at once, where there are many."""
    figure: str = "wall"
    """Which time it is about: wall or first_request."""
    checksum: bool = False
    http2: bool = False
    http3: bool = False
    in_memory: bool = False
    """Downloads go to tmpfs instead of the file system of the output folder."""
    full_only: bool = False
    tools: tuple[str, ...] = ()
    """The only tools that make sense here; empty: all, but of the variants of fastidm and of the baselines only `variants`."""
    variants: tuple[str, ...] = ()
    granted: int = 0
    """Connections that the server grants, where it is fewer than are asked for: the baseline opens no more."""
    floor: bool = True
    """Whether the baseline, which knows of no trouble, can get through."""
    fixed: bool = False
    """Whether the size is part of the question, so that nobody may change it."""
    extra_repetitions: int = 0


@dataclass
class Run:
    """One run of one tool in one scenario."""

    scenario: str
    tool: str
    label: str
    repetition: int
    size: int
    warmup: bool = False
    wall: float = 0.0
    user: float = 0.0
    system: float = 0.0
    rss: int = 0
    """The most memory that the process had; see launch.py for its lower bound."""
    sent: int = 0
    requests: int = 0
    connections: int = 0
    server_cpu: float = 0.0
    first_request: float | None = None
    """Seconds from exec to the server's first request."""
    ideal: float | None = None
    correct: bool = False
    failure: str = ""
    """Why there is no time: wrong content, a status, a time-out. Empty when all is well."""
    unable: str = ""
    """Why it was not run at all."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def sent_ratio(self) -> float:
        return self.sent / self.size if self.size else 0.0

    def record(self) -> dict[str, Any]:
        """As it stands in a JSON line."""
        return {"kind": "run", **asdict(self), "cpu": self.cpu, "sent_ratio": round(self.sent_ratio, 6)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Run:
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in record.items() if name in known})


def usable(runs: Sequence[Run]) -> Iterator[Run]:
    """The runs that count: measured, and with the right content."""
    return (run for run in runs if not run.warmup and not run.failure and not run.unable and run.correct)


def positive(text: str) -> int:
    """A number of an option, at least 1."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number
