"""hf_transfer, as the Hugging Face Hub used it: blocks of 10 MiB."""

from __future__ import annotations

from benchmarks.finding import ENV, library, package
from benchmarks.model import Extra, Unable

label = "hf_transfer"


def version() -> str | None:
    return package("hf_transfer")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum or extra.resume:
        raise Unable("no such thing")
    trust = [ENV, f"SSL_CERT_FILE={extra.cacert}"] if extra.cacert else []
    return [*trust, *library("hf_transfer", "one", url, path, str(connections), extra.cacert)]
