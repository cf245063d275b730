"""Kills and power cuts: recorded runs of the storage code, cut at every step, and real processes and file systems, stopped."""
