"""Download one file with a tqdm bar.

    python examples/tqdm_bar.py https://example.com/disk.iso
"""

import sys

from tqdm import tqdm

import fastidm


def main(url: str) -> None:
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=url.rpartition("/")[2]) as bar:

        def show(progress: fastidm.Progress) -> None:
            bar.total = progress.size
            bar.update(progress.received - bar.n)

        result = fastidm.download(url, on_progress=show)
    print(f"{result.path}: {result.size} bytes over {result.connections} connections")


if __name__ == "__main__":
    main(sys.argv[1])
