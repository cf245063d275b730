"""fsspec reads http and https through fastidm, and with it whatever is built on fsspec (dask, datasets, intake, ...).

    from fastidm.integrations.fsspec import register
    register()
    fsspec.filesystem("https").get_file(url, "data.parquet")

Rules of this module: what fetches whole files is ours (`get`, `get_file`, `cat`, and with them the caches of fsspec); to list,
to look up and to read parts is left to fsspec's own HTTPFileSystem, which this one is. So is each request that asks for what is
not understood here (of aiohttp anything but headers: a proxy, a certificate, a client of one's own).
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fsspec import register_implementation
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.http import HTTPFileSystem, get_client

from fastidm.api import adownload, afetch
from fastidm.errors import FastidmError, LockedError, NotFoundError
from fastidm.events import Progress
from fastidm.options import header_lines

if TYPE_CHECKING:
    from fastidm.options import Arguments


class FastidmHTTPFileSystem(HTTPFileSystem):  # type: ignore[misc]
    """fsspec's HTTPFileSystem, with whole files fetched by fastidm.

    Parameters: `fastidm`, a dict of options as of `fastidm.download`; all others as of `HTTPFileSystem`. Errors are
    `FileNotFoundError` for what the server does not have, else leaves of `FastidmError`.
    """

    def __init__(self, *args: Any, fastidm: Arguments | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fastidm: Arguments = dict(fastidm or {})  # type: ignore[assignment]

    async def _get_file(
        self, rpath: str, lpath: Any, chunk_size: int = 5 << 20, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        options = self._options(kwargs)
        if options is None or not isinstance(lpath, str | os.PathLike):
            await super()._get_file(rpath, lpath, chunk_size=chunk_size, callback=callback, **kwargs)
            return
        options["overwrite"] = True
        url, path = str(self.encode_url(rpath)), os.path.realpath(lpath)  # what a link leads to is written, as fsspec does
        told = 0

        def moved(progress: Progress) -> None:
            nonlocal told
            if progress.size is not None:
                callback.set_size(progress.size)
            callback.relative_update(progress.received - told)
            told = progress.received

        try:
            try:
                await adownload(url, path, on_progress=moved, **options)
            except LockedError:  # somebody else gets it as well: whoever comes last has written it
                with TemporaryDirectory(dir=os.path.dirname(path), prefix="fastidm-") as folder:
                    own = os.path.join(folder, os.path.basename(path))
                    await adownload(url, own, on_progress=moved, **options)
                    os.replace(own, path)
        except FastidmError as error:
            raise _as_fsspec_says(error, rpath) from error

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        options = self._options(kwargs)
        if options is None or start is not None or end is not None:
            found: bytes = await super()._cat_file(url, start=start, end=end, **kwargs)
            return found
        try:
            with await afetch(str(self.encode_url(url)), **options) as body:
                return bytes(body)
        except FastidmError as error:
            raise _as_fsspec_says(error, url) from error

    def _options(self, request: dict[str, Any]) -> Arguments | None:
        """What a request of aiohttp asks for, as options; None if it asks for what fastidm does not know."""
        client = {name: value for name, value in (self.client_kwargs or {}).items() if name != "trust_env"}
        asked = {name: value for name, value in {**self.kwargs, **request}.items() if value is not None}
        headers = {**dict(client.pop("headers", None) or {}), **dict(asked.pop("headers", None) or {})}
        if asked or client or self.get_client is not get_client:
            return None
        options: Arguments = {**self._fastidm}
        if headers:
            options["headers"] = (*header_lines(options.get("headers")), *header_lines(headers))
        return options


def register() -> None:
    """Make it fsspec's implementation of http and https."""
    for protocol in ("http", "https"):
        register_implementation(protocol, FastidmHTTPFileSystem, clobber=True)


def _as_fsspec_says(error: FastidmError, url: str) -> Exception:
    return FileNotFoundError(url) if isinstance(error, NotFoundError) else error
