from typing import ClassVar, final

from _typeshed import ReadableBuffer, WriteableBuffer

@final
class Sink:
    """See `fastidm.storage.sink.PureSink`, which documents it."""

    HOLD: ClassVar[int]
    ARMED: ClassVar[int]
    FULL: ClassVar[int]
    FAILED: ClassVar[int]
    CLOSED: ClassVar[int]

    mode: int
    @property
    def state(self) -> int: ...
    @property
    def row(self) -> int: ...
    @property
    def cursor(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def errno(self) -> int: ...
    @property
    def beyond(self) -> bytes: ...
    @property
    def mismatch(self) -> int: ...
    @property
    def cost_ns(self) -> int: ...
    @property
    def cost_bytes(self) -> int: ...
    def __new__(
        cls,
        fd: int,
        table: WriteableBuffer,
        size: int,
        dirty: list[Sink],
        *,
        gather: int = 131072,
        mode: int = 0,
        window: int = 2097152,
        memory: WriteableBuffer | None = None,
    ) -> Sink: ...
    def __call__(self, block: ReadableBuffer, /) -> int | None: ...
    def arm(self, row: int, cursor: int, seam: int = 0, /) -> None: ...
    def flush(self) -> bool: ...
    def close(self) -> None: ...
