"""What keeps: the part file, the sink, the journal, names and checksums. The only place that touches the disk.

Rules of this package: it imports `errors`, `options`, `events` and `core`, never `net`. What leaves it is a
`StorageError` or a leaf below it. A function that may block says so and belongs into a helper thread.
"""
