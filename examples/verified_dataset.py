"""Fetch a data set whose files and checksums are listed, as SHA256SUMS does it: `HEX  NAME` a line. What is there already and
right is not fetched again.

    python examples/verified_dataset.py https://example.com/data/SHA256SUMS FOLDER
"""

import hashlib
import sys
from pathlib import Path
from urllib.parse import urljoin

import fastidm


def listed(url: str) -> dict[str, str]:
    """Name -> SHA-256 of each file."""
    lines = bytes(fastidm.fetch(url, max_size=1 << 20)).decode().splitlines()
    return {name.strip().lstrip("*"): digest for digest, _, name in (line.partition(" ") for line in lines if line.strip())}


def is_right(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def main(url: str, folder: Path) -> int:
    """Returns how many files could not be had."""
    wrong = 0
    with fastidm.DownloadManager(max_downloads=4) as manager:
        for name, digest in listed(url).items():
            path = folder / name
            if folder.resolve() not in path.resolve().parents:
                raise ValueError(f"a name that leads out of the folder: {name!r}")
            if not is_right(path, digest):
                path.parent.mkdir(parents=True, exist_ok=True)
                manager.add(urljoin(url, name), path, checksum=f"sha256:{digest}", overwrite=True)
    for task in manager.tasks:
        print(f"{task.status.value:9} {task.path} {task.error or ''}")
        wrong += task.result is None
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])) > 0)
