"""`python -m fastidm.demo`: arguments in, exit status out.

Rules of this module: the first line on standard output is the URL of the file, for programs that start the server; what
is meant for people goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from fastidm.demo.protocol import name_of
from fastidm.demo.server import DemoServer
from fastidm.errors import UsageError
from fastidm.options import parse_size


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _positive(text: str) -> int:
    value = _size(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line of the demo server."""
    made = argparse.ArgumentParser(
        prog="python -m fastidm.demo",
        description="A file server on 127.0.0.1 for trying fastidm: the file is computed, never stored.",
        epilog="Each size has its own address: /256M.bin, /10k.bin, /1.5G.bin. /256M.sha256 is a file's digest, "
        "/stats what was sent up to now.",
    )
    made.add_argument("--show", action="store_true", help="download from it, kill half-way, resume, verify")
    made.add_argument("--size", type=_size, default=256 << 20, help="size of the file (default 256M)")
    made.add_argument("--rate", type=_positive, help="bytes per second for each connection, like 4M")
    made.add_argument("--port", type=int, default=0, help="port to listen on (default 0: any that is free)")
    made.add_argument("--limit", type=_positive, metavar="N", help="send N files at once, answer 503 to others")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="another number: other content")
    made.add_argument("--until-eof", action="store_true", help="stop when standard input ends: die with the parent")
    return made


async def _serve(server: DemoServer, url: str, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(server.serve())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    if until_eof:
        loop.add_reader(0, lambda: os.read(0, 4096) or serving.cancel())
    # Only now: whoever reads this may stop us at once, and is to see a good end.
    print(url, flush=True)
    if sys.stderr.isatty():
        print(f"Serving until Ctrl-C; its digest is at {url.removesuffix('.bin')}.sha256", file=sys.stderr)
    try:
        await serving
    except asyncio.CancelledError:
        pass


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, or run the demonstration; returns the exit status."""
    wish = parser().parse_args(arguments)
    if wish.show:
        from fastidm.demo.show import RATE, show

        return show(size=wish.size, rate=wish.rate or RATE)
    server = DemoServer(rate=wish.rate, limit=wish.limit, seed=wish.seed)
    try:
        url = f"http://127.0.0.1:{server.listen(wish.port)}/{name_of(wish.size)}.bin"
    except (OSError, OverflowError) as error:
        print(f"cannot listen on port {wish.port}: {error}", file=sys.stderr)
        return 1
    asyncio.run(_serve(server, url, wish.until_eof))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
