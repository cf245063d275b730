"""The part of a remote file that a task is to bring, if it is not all of it.

Rule of this module: within the task byte 0 is the first byte of the span; what goes to the server and what comes from there is
counted from the beginning of the file. `Span` is where one becomes the other.
"""

from __future__ import annotations

from fastidm.core.response import Content
from fastidm.records import record, replace


@record(frozen=True)
class Span:
    """The bytes [start, stop) of a file.

    `content`: what the file is known to be, so that no other one's bytes are taken for it. None: that is to be found out; then
    `start` is 0, and a server that has no parts may send the whole file, of whatever length.
    """

    start: int
    stop: int
    content: Content | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop or (self.start and self.content is None):
            raise ValueError("no such span")

    def within(self, whole: Content, ranges: bool) -> Content:
        """What the task downloads of a file that is `whole`. `ranges`: the server sends it in parts."""
        if self is WHOLE or (not ranges and self.content is None):
            return whole  # of a file that is known only the front of what comes is taken
        assert whole.total is not None, "a part says where it is"
        return replace(whole, total=max(0, min(self.stop, whole.total) - self.start))


WHOLE = Span(0, 1 << 63)
"""No part: all of a file, of which nothing is known."""
