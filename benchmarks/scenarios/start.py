"""How long it takes until something happens."""

from __future__ import annotations

from benchmarks.model import KIB, Scenario
from benchmarks.origins import throttled

SCENARIOS = (
    Scenario(
        "cold",
        "From exec to the first request",
        "A file of 64 KiB. The server notes when the first request arrives; the clock starts just before exec.",
        size=64 * KIB,
        quick=64 * KIB,
        origin=throttled,
        figure="first_request",
        fixed=True,
        variants=("fastidm_api",),
        extra_repetitions=10,
    ),
)
