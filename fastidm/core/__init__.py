"""Decides. No I/O, no clock, no thread: time is an argument `now` (seconds, monotonic), chance an argument `chance`."""
