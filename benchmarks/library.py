"""Python libraries as commands: `library.py NAME one URL PATH CONNECTIONS CACERT`,
`library.py NAME many FOLDER PARALLEL CONNECTIONS CACERT URL...`.

Rules of this script: each library is used as its own manual shows it for large files, streaming into a file; nothing of ours is
between it and the disk. A library is imported only when it is asked for, since its import is part of its time.
"""

from __future__ import annotations

import os
import sys
from typing import Any

CHUNK = 1 << 20


def name_in(folder: str, url: str) -> str:
    return os.path.join(folder, url.rpartition("/")[2])


def trust(cacert: str) -> Any:
    import ssl

    return ssl.create_default_context(cafile=cacert) if cacert else ssl.create_default_context()


def with_pycurl(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    import pycurl

    curl = pycurl.Curl()
    version = "3ONLY" if os.environ.get("BENCH_HTTP3") == "1" else "2TLS" if os.environ.get("BENCH_HTTP2") == "1" else "1_1"
    curl.setopt(pycurl.HTTP_VERSION, getattr(pycurl, f"CURL_HTTP_VERSION_{version}"))
    curl.setopt(pycurl.FAILONERROR, True)
    if cacert:
        curl.setopt(pycurl.CAINFO, cacert)
    for url, path in pairs:
        with open(path, "wb", 128 << 10) as file:  # longer writes were measured to cost more on virtual machines
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.WRITEFUNCTION, file.write, use_memoryview=True)
            curl.perform()
    curl.close()


def with_requests(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=parallel))

    def fetch(pair: tuple[str, str]) -> None:
        with session.get(pair[0], stream=True, verify=cacert or True, timeout=60) as answer:
            answer.raise_for_status()
            with open(pair[1], "wb") as file:
                file.writelines(answer.iter_content(CHUNK))

    if len(pairs) == 1:
        fetch(pairs[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(fetch, pairs))


def with_httpx(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    import asyncio

    import httpx

    async def everything() -> None:
        turn = asyncio.Semaphore(parallel)
        http2 = os.environ.get("BENCH_HTTP2") == "1"
        async with httpx.AsyncClient(verify=trust(cacert), timeout=60, http2=http2) as client:

            async def fetch(url: str, path: str) -> None:
                async with turn, client.stream("GET", url) as answer:
                    answer.raise_for_status()
                    with open(path, "wb") as file:
                        async for chunk in answer.aiter_bytes(CHUNK):
                            file.write(chunk)

            await asyncio.gather(*(fetch(url, path) for url, path in pairs))

    asyncio.run(everything())


def with_aiohttp(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    import asyncio

    import aiohttp

    async def everything() -> None:
        connector = aiohttp.TCPConnector(limit=parallel, ssl=trust(cacert))
        patience = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:

            async def fetch(url: str, path: str) -> None:
                async with session.get(url) as answer:
                    answer.raise_for_status()
                    with open(path, "wb") as file:
                        async for chunk in answer.content.iter_chunked(CHUNK):
                            file.write(chunk)

            await asyncio.gather(*(fetch(url, path) for url, path in pairs))

    asyncio.run(everything())


def with_hf_transfer(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    import hf_transfer

    for url, path in pairs:
        hf_transfer.download(url, path, connections, 10 << 20, parallel_failures=3, max_retries=5)


def with_pypdl(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    from pypdl import Pypdl

    for url, path in pairs:
        Pypdl().start(
            url=url, file_path=path, segments=connections, multisegment=True, display=False, block=True, overwrite=False
        )


def with_fastidm(pairs: list[tuple[str, str]], parallel: int, connections: int, cacert: str) -> None:
    from fastidm import DownloadManager, download

    if len(pairs) == 1:
        ((url, path),) = pairs
        download(url, path, connections=connections, cacert=cacert or None, sync=False)
        return
    with DownloadManager(max_downloads=parallel) as manager:
        tasks = [manager.add(url, path, connections=connections, cacert=cacert or None, sync=False) for url, path in pairs]
    for task in tasks:
        task.wait()


def main() -> None:
    name, what, *rest = sys.argv[1:]
    if what == "one":
        url, path, connections, cacert = rest
        pairs, parallel = [(url, path)], 1
    else:
        folder, at_once, connections, cacert, *urls = rest
        pairs, parallel = [(url, name_in(folder, url)) for url in urls], int(at_once)
    globals()[f"with_{name}"](pairs, parallel, int(connections), cacert)


if __name__ == "__main__":
    main()
