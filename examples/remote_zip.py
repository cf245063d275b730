"""List a remote zip archive, or take one member out of it, and fetch no more than that.

    python examples/remote_zip.py https://example.com/archive.zip
    python examples/remote_zip.py https://example.com/archive.zip readme.txt > readme.txt
"""

import shutil
import sys
import zipfile

import fastidm


def main(url: str, member: str | None = None) -> None:
    with fastidm.open(url) as file, zipfile.ZipFile(file) as archive:
        if member is None:
            for info in archive.infolist():
                print(f"{info.file_size:>12,}  {info.filename}")
        else:
            with archive.open(member) as source:
                shutil.copyfileobj(source, sys.stdout.buffer)


if __name__ == "__main__":
    main(*sys.argv[1:3])
