"""huggingface_hub downloads through fastidm.

    with accelerated():
        hf_hub_download("bert-base-uncased", "model.safetensors")

Rules of this module: the library has no hook, so its function `file_download.http_get` is replaced while the block runs, for
all threads. What that function cannot do here (to go on with a file that another run has begun) is left to the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub import file_download

from fastidm.api import stream

if TYPE_CHECKING:
    from typing import BinaryIO, Unpack

    from fastidm.options import Arguments


@contextmanager
def accelerated(**options: Unpack[Arguments]) -> Iterator[None]:
    """Have huggingface_hub's plain HTTP downloads done by fastidm while the block runs.

    Files in the hub's Xet storage come another way, unless `HF_HUB_DISABLE_XET=1` is set. Parameters: `options`, as of
    `fastidm.stream`. Downloads raise leaves of `FastidmError`, and OSError for a body that is not as long as the hub says.
    """
    original = file_download.http_get

    def http_get(
        url: str,
        temp_file: BinaryIO,
        *args: Any,
        resume_size: int = 0,
        headers: dict[str, Any] | None = None,
        expected_size: int | None = None,
        **rest: Any,
    ) -> None:
        if resume_size or args:
            original(
                url, temp_file, *args, resume_size=resume_size, headers=headers, expected_size=expected_size, **rest
            )
            return
        named: Arguments = {**options}
        if headers:
            named["headers"] = {
                name: str(value) for name, value in headers.items() if value is not None and name.lower() not in _OURS
            }
        with stream(url, **named) as source:
            if expected_size is not None and source.size is not None and source.size != expected_size:
                raise OSError(f"the server has {source.size} bytes, and the hub says {expected_size}")
            written = source.raw.write_to(temp_file.write)
        if expected_size is not None and written != expected_size:
            raise OSError(f"{written} bytes came, and the hub says {expected_size}")

    file_download.http_get = http_get
    try:
        yield
    finally:
        file_download.http_get = original


_OURS = frozenset(("range", "accept-encoding"))
"""Fields that a download sets itself."""
