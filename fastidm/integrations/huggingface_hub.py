"""huggingface_hub downloads through fastidm.

    with accelerated():
        hf_hub_download("bert-base-uncased", "model.safetensors")

Rules of this module: the library has no hook, so its function `http_get` is replaced while a block runs, for all threads and
in both modules that use it; blocks may overlap, and the last to begin decides the options. What that function cannot do here
(to go on with a file that another run has begun, to fetch a part) is left to the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from huggingface_hub import file_download, hf_file_system

from fastidm.api import stream
from fastidm.options import header_lines

if TYPE_CHECKING:
    from typing import BinaryIO, Unpack

    from fastidm.options import Arguments

_original = file_download.http_get
_blocks: list[Arguments] = []
"""The options of the blocks that run."""
_lock = Lock()


@contextmanager
def accelerated(**options: Unpack[Arguments]) -> Iterator[None]:
    """Have huggingface_hub's plain HTTP downloads done by fastidm while the block runs.

    Files in the hub's Xet storage come another way, unless `HF_HUB_DISABLE_XET=1` is set. Parameters: `options`, as of
    `fastidm.stream`. Downloads raise leaves of `FastidmError`, and OSError for a body that is not as long as the hub says.
    """
    with _lock:
        _blocks.append(options)
        _use(_http_get)
    try:
        yield
    finally:
        with _lock:
            del _blocks[next(number for number, block in enumerate(_blocks) if block is options)]
            if not _blocks:
                _use(_original)


def _use(function: Any) -> None:
    for module in (file_download, hf_file_system):
        vars(module)["http_get"] = function


def _http_get(
    url: str,
    temp_file: BinaryIO,
    *,
    resume_size: int = 0,
    headers: dict[str, Any] | None = None,
    expected_size: int | None = None,
    displayed_filename: str | None = None,
    tqdm_class: Any = None,
    _tqdm_bar: Any = None,
    **rest: Any,
) -> None:
    """With the parameters of huggingface_hub's own."""
    sent = {name.lower(): str(value) for name, value in (headers or {}).items() if value is not None}
    block = next(reversed(_blocks), None)
    if resume_size or "range" in sent or block is None:
        _original(
            url, temp_file, resume_size=resume_size, headers=headers, expected_size=expected_size,
            displayed_filename=displayed_filename, tqdm_class=tqdm_class, _tqdm_bar=_tqdm_bar, **rest,
        )  # fmt: skip
        return
    named: Arguments = {**block}
    sent.pop("accept-encoding", None)  # a download sets it itself
    if sent:
        named["headers"] = (*header_lines(named.get("headers")), *header_lines(sent))
    with stream(url, **named) as source:
        if None not in (expected_size, source.size) and source.size != expected_size:
            raise OSError(f"the server has {source.size} bytes, and the hub says {expected_size}")
        with vars(file_download)["_get_progress_bar_context"](
            desc=(displayed_filename or url)[-40:], log_level=file_download.logger.getEffectiveLevel(),
            total=source.size if source.size is not None else expected_size, name="huggingface_hub.http_get",
            tqdm_class=tqdm_class, _tqdm_bar=_tqdm_bar,
        ) as bar:  # fmt: skip
            moved = getattr(bar, "update_transfer", None)

            def write(block: memoryview) -> int:
                count = temp_file.write(block)
                bar.update(count)
                if callable(moved):
                    moved(count)
                return count

            written = source.raw.write_to(write)
    if expected_size is not None and written != expected_size:
        raise OSError(f"{written} bytes came, and the hub says {expected_size}")
