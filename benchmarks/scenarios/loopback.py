"""As fast as it goes: nginx on this machine, nothing is throttled, and what is compared is the cost of the work."""

from __future__ import annotations

from functools import partial

from benchmarks.model import GIB, MIB, Scenario
from benchmarks.origins import nginx

SCENARIOS = (
    Scenario(
        "plain",
        "Plain HTTP, nothing throttled",
        "One file from nginx over loopback. Shows the processor time that a byte costs; no network is so fast.",
        size=GIB,
        quick=256 * MIB,
        origin=nginx,
        variants=(
            "fastidm_mmap",
            "fastidm_pwrite",
            "fastidm_pure",
            "fastidm_synced",
            "fastidm_api",
            "floor_synced",
            "disk",
            "libcurl",
        ),
    ),
    Scenario(
        "plain_tmpfs",
        "Plain HTTP into memory",
        "As before, but the file is written to tmpfs, where no file system takes part.",
        size=GIB,
        quick=256 * MIB,
        origin=nginx,
        in_memory=True,
        tools=("fastidm", "fastidm_mmap", "fastidm_pwrite", "fastidm_pure", "floor", "curl", "aria2c", "aria2_next"),
    ),
    Scenario(
        "tls",
        "TLS, nothing throttled",
        "One file from nginx over TLS and HTTP/1.1, with a certificate that each tool (but axel) verifies.",
        size=GIB,
        quick=256 * MIB,
        origin=partial(nginx, tls=True),
        variants=("fastidm_mmap", "fastidm_pwrite", "fastidm_pure", "fastidm_synced", "floor_synced", "libcurl"),
    ),
    Scenario(
        "checksum",
        "SHA-256 verified by the tool",
        "Plain HTTP; the tool is given the SHA-256 and must verify it before it ends.",
        size=GIB,
        quick=256 * MIB,
        origin=nginx,
        checksum=True,
    ),
    Scenario(
        "huge",
        "8 GiB",
        "One large file: whether memory and cost per byte stay what they are for 1 GiB.",
        size=8 * GIB,
        quick=GIB,
        origin=nginx,
        full_only=True,
        tools=("fastidm", "fastidm_mmap", "fastidm_pwrite", "floor", "curl", "aria2c", "aria2_next"),
    ),
)
