"""Where fuzzing begins: inputs of each target that reach far into its parser, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from fastidm.storage.pages import Identity, live_head, pack_header, pack_slot

IDENTITY = Identity(1 << 22, '"1"', "Sun, 06 Nov 1994 08:49:37 GMT", "http://h/x", b"s" * 16, b"h" * 32, 1, 2, 3)

HEADERS = [pack_header(IDENTITY), pack_header(Identity(0, None, None, "", b"s" * 32, b"h" * 16, 0, 2**64 - 1, 0))]
SLOTS = [
    pack_slot(1, 1, [], 7),
    pack_slot(2, 9, [(0, 10), (20, 1 << 40)], 7),
    pack_slot(3, 9, [(at, at + 1) for at in range(0, 900, 2)], 7),
]


def row(start: int, stop: int, position: int) -> bytes:
    return struct.pack("=4q", start, stop, position, ~position)


def size_of(total: int) -> bytes:
    return struct.pack("<Q", total << 1)


NAMES = (
    b'attachment; filename="x.bin"',
    b"attachment; filename=x.tar.gz; filename*=UTF-8''%e2%82%ac%20rates.txt",
    b"inline; filename*=iso-8859-1'en'%A3%2F..%5c.bashrc",
    b'attachment; filename="../../C:\\CON.desktop"; size=3;;;',
    b'filename="never ends \\" \\\\',
    b'attachment; filename="\xe2\x80\xae\x1b[2J.part. "',
)
HEADS = (
    b'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-99/100\r\nContent-Length: 100\r\nETag: "a"\r\n',
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 50-79/*\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 50-100/*\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 100, 100\r\nContent-Encoding: identity\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n",
    b"HTTP/1.1 416 No\r\nContent-Range: bytes */100\r\nContent-Length: 0\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://other.test/\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    b"HTTP/1.1 206 X\r\nContent-Type: multipart/byteranges; boundary=x\r\n folded\r\nnonsense\r\n",
)
URLS = (
    b"https://user.test:8443/x.bin?token=a%20b#top",
    b"//user.test:8443@other.test/x",
    b"http://[::1]:80/%2e%2e%2fevil",
    b"HTTPS://ann:p@ss@h:/\xc3\xa9",
    b"http://b\xc3\xbccher.example:65535",
    b"../../x?y=//z@w",
    b"file:///etc/passwd",
    b"ann:word@host/x?y#z",
    b"http://ann:pa/ss@host/x",
)

SEEDS: dict[str, Iterable[bytes]] = {
    "journal_header": [flag + page for page in HEADERS for flag in (b"\0", b"\xff")],
    "journal_slot": [flag + page for page in SLOTS for flag in (b"\0", b"\xff")],
    "journal_rows": [
        size_of(100) + row(0, 50, 20) + row(50, 100, 100),
        size_of(1 << 62) + row(0, 1 << 61, 1) + row(1, 1 << 60, 5) + bytes(32),
        size_of(100) + row(0, 60, 60) + row(40, 100, 90) + row(40, 100, 90) + row(90, 10, 0) + row(-1, 5, 5),
    ],
    "journal_live": [bytes(24) + live_head(bytes(16), 0, 3), b"b" * 16 + struct.pack(">Q", 5) + live_head(b"b" * 16, 5, 7)],
    "journal_file": [b"\0", b"\0\x10\x00\x01", b"\0\x10\x40\x80\x30\x10\x01", b"\xff\x80", b"\0\x00\x12\xff"],
    "content_range": [
        b"bytes 0-9/100",
        b"bytes 0-9/9",
        b"Bytes 0-9/*",
        b"bytes 000-9223372036854775806/9223372036854775807",
        b" bytes  5-5/6\t",
    ],
    "unsatisfied_range": [b"bytes */100", b"BYTES */0", b"bytes */9223372036854775807"],
    "length": [b"100", b"100\n100", b"100, 100", b"9223372036854775807", b"0"],
    "digest": [
        b"sha-256=:" + b"A" * 43 + b"=:",
        b"md5=:x:, SHA-512 = :" + b"A" * 86 + b"==:\nsha-256=:bad:",
    ],
    "retry_after_field": [b"120", b" 0 ", b"Sun, 06 Nov 1994 08:49:37 GMT", b"Fri, 31 Dec 9999 23:59:59 UTC", b"9999999999"],
    "head": HEADS,
    "verdict": [choice + text for text in HEADS for choice in (b"\x00\x01", b"\x80\x12", b"\x00\x1b")],
    "content_disposition": NAMES,
    "url_name": URLS,
    "redirect": URLS,
    "shown_url": URLS,
    "user_url": URLS,
    "checksum": [
        b"sha256:" + b"ab" * 32,
        b"SHA-1=" + b"00" * 20,
        b"md5:" + b"f" * 32,
        b"shake_128:00",
        b"blake2b:" + b"0" * 128,
    ],
    "size": [b"500", b"10M", b"1.5GiB", b" 2 tb ", b"1e3k", b"nan", b"inf", b"0x10", b"\xd9\xa1k"],
    "arguments": [
        b"http://h/x\0-n\0" + b"16\0--limit-rate=10M\0--json",
        b"-H\0X: y\0-u\0ann:pw\0--proxy\0http://a:b@h:1\0https://h/",
        b"-o\0x\0-d\0/tmp\0--checksum\0md5:" + b"0" * 32 + b"\0--io\0mmap\0--\0http://h",
        b"--help",
        b"-output\0--conns\0-Q\0--timeout\0nan",
    ],
}
