"""pooch downloads through fastidm.

    pooch.retrieve(url, known_hash=..., downloader=FastidmDownloader(progressbar=True))

Rules of this module: pooch gives each attempt another temporary name. What comes is therefore kept under a name that the URL
alone decides, beside it, so that an attempt that was interrupted is gone on with by the next; pooch's own name gets the
complete file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastidm.api import download, stream
from fastidm.errors import AuthError, BusyError, LockedError, NotFoundError, RefusedError
from fastidm.events import Progress

if TYPE_CHECKING:
    from typing import IO, Unpack

    from fastidm.options import Arguments


class FastidmDownloader:
    """A downloader for `pooch.retrieve` and `Pooch.fetch`, for http and https.

    Parameters: `progressbar`, True: a bar of tqdm on stderr, or a bar of your own as pooch describes it (`total`, `update`,
    `reset`, `close`); `options`, as of `fastidm.download`.

    Calls raise leaves of `FastidmError`.
    """

    def __init__(self, progressbar: Any = False, **options: Unpack[Arguments]) -> None:
        self._progressbar = progressbar
        self._options = options

    def __call__(
        self, url: str, output_file: str | os.PathLike[str] | IO[bytes] | None, pooch: Any, check_only: bool = False
    ) -> bool | None:
        """What pooch calls: download `url` to `output_file`. `check_only`: say whether it is there, and download nothing."""
        if check_only:
            return self._is_there(url)
        assert output_file is not None, "pooch names a file unless it only checks"
        if not isinstance(output_file, str | os.PathLike):
            write = output_file.write
            with stream(url, **self._options) as source:
                # Some things that look like files do not say how much they took: all of it then.
                source.raw.write_to(lambda block: len(block) if (count := write(block)) is None else count)
            return None
        path = os.fspath(output_file)
        options: Arguments = {**self._options, "overwrite": True}
        with _Bar(self._progressbar) as bar:
            try:
                download(url, own := _own_name(path, url), on_progress=bar, **options)
            except LockedError:  # another process gets the same file
                download(url, path, on_progress=bar, **options)
            else:
                os.replace(own, path)
        return None

    def _is_there(self, url: str) -> bool:
        """What the server says; where there is no server to ask, that is raised."""
        options: Arguments = {**self._options, "connections": 1, "retries": 0}
        try:
            stream(url, **options).close()
        except (NotFoundError, RefusedError, AuthError, BusyError):
            return False
        return True


class _Bar:
    """A bar of tqdm, or the caller's, or none."""

    def __init__(self, wanted: Any) -> None:
        self._wanted = wanted
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> Callable[[Progress], None]:
        if self._wanted is True:
            from tqdm import tqdm

            self._bar = tqdm(unit="B", unit_scale=True)
        elif self._wanted:
            self._bar = self._wanted
        return self._moved

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _moved(self, progress: Progress) -> None:
        if self._bar is not None:
            if progress.received < self._shown:  # it began anew
                self._bar.reset()
                self._shown = 0
            self._bar.total = progress.size
            self._bar.update(progress.received - self._shown)
            self._shown = progress.received


def _own_name(path: str, url: str) -> str:
    from hashlib import sha256

    return os.path.join(os.path.dirname(path), f"fastidm-{sha256(url.encode()).hexdigest()[:16]}")
