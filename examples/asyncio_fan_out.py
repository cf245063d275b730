"""Download many files inside an asyncio program, and say of each how it ended.

    python examples/asyncio_fan_out.py FOLDER URL [URL...]
"""

import asyncio
import os
import sys

import fastidm


async def one(url: str, folder: str) -> str:
    try:
        result = await fastidm.adownload(url, dir=folder)
    except fastidm.FastidmError as error:
        return f"{url}: {error.name}: {error.message}"
    return f"{result.path}: {result.size} bytes in {result.seconds:.2f} s"


async def main(folder: str, urls: list[str]) -> None:
    os.makedirs(folder, exist_ok=True)
    for line in asyncio.as_completed([one(url, folder) for url in urls]):
        print(await line)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
