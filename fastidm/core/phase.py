"""Where a task is in its life, and every way from one place to another.

Rule of this module: `TRANSITIONS` holds every phase change there is; `docs/design.md` shows the diagram drawn from it.
"""

from __future__ import annotations

from enum import Enum

from fastidm.events import DownloadStatus


class Phase(Enum):
    """What the task is busy with."""

    __hash__ = object.__hash__  # there is one of each; Enum would hash its name, in Python, at every look into TRANSITIONS

    PENDING = "pending"
    PROBING = "probing"
    """The first request is out, or waits to be sent again."""
    OPENING = "opening"
    """The first answer was accepted; part file and journal are being made."""
    RECEIVING = "receiving"
    FINISHING = "finishing"
    """Every byte is written; checksum, sync and rename are under way."""
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"


ONLINE = (Phase.PROBING, Phase.OPENING, Phase.RECEIVING)
"""The phases that have connections."""

TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.PENDING, "start"): Phase.PROBING,
    (Phase.PAUSED, "start"): Phase.PROBING,
    (Phase.PROBING, "accept"): Phase.OPENING,
    (Phase.OPENING, "open"): Phase.RECEIVING,
    (Phase.RECEIVING, "complete"): Phase.FINISHING,
    (Phase.FINISHING, "finish"): Phase.COMPLETED,
    (Phase.PAUSED, "finish"): Phase.COMPLETED,  # the rename was under way when the pause was asked for
    **{(phase, "restart"): Phase.PROBING for phase in ONLINE},
    **{(phase, "pause"): Phase.PAUSED for phase in (Phase.PENDING, *ONLINE, Phase.FINISHING)},
    **{(phase, "fail"): Phase.FAILED for phase in (Phase.PENDING, *ONLINE, Phase.FINISHING)},
}

STATUS = {
    Phase.PENDING: DownloadStatus.PENDING,
    Phase.PROBING: DownloadStatus.DOWNLOADING,
    Phase.OPENING: DownloadStatus.DOWNLOADING,
    Phase.RECEIVING: DownloadStatus.DOWNLOADING,
    Phase.FINISHING: DownloadStatus.DOWNLOADING,
    Phase.PAUSED: DownloadStatus.PAUSED,
    Phase.COMPLETED: DownloadStatus.COMPLETED,
    Phase.FAILED: DownloadStatus.FAILED,
}
"""What users see of it."""
