"""Cases about lengths, bodies, heads, redirects and names."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

from tests.reliability.cases import Case, Run
from tests.reliability.cases_ranges import GOES_ON, RIGHT_SUM, UNFIT

REFUSED = (Run(14, "N"),)
ONCE = ("--retries", "1")
HURRIED = ("--connect-timeout", "1", "--timeout", "1", "--retries", "0")
DIGEST = b64encode(bytes.fromhex(RIGHT_SUM[1].partition(":")[2])).decode()
WRONG_SUM = ("--checksum", "sha256:" + 64 * "0")

LENGTHS = (
    Case("H1", "HEAD is refused", "refuses_head/a.bin?status=405"),
    Case("H1", "HEAD is forbidden", "refuses_head/a.bin?status=403"),
    Case("H2", "HEAD tells half the size", "refuses_head/a.bin?lies=1"),
    Case("H3", "no length", "unsaid/a.bin", requests=1),
    Case("H3", "no length and an old version", "unsaid/a.bin?version=1.0", requests=1),
    Case("H4", "no length and half of it", "unsaid/a.bin?cut=2M", (Run(15, "N"),), None, None, RIGHT_SUM, tools=False),
    Case("H5", "chunks", "chunked/a.bin", requests=1),
    Case("H6", "chunks that break off", "chunked/a.bin?cut=2M&fault@2=chunked&cut@2=4M", (Run(6, "N"), Run()), options=ONCE),
    Case("H6", "chunks that break off once", "chunked/a.bin?cut=2M&cut@2=4M&switch=2", requests=2, sent=1.6),
    Case("H7", "gzip for ranges", "zipped/a.bin"),
    Case("H7", "gzip for everything", "zipped/a.bin?to=all", REFUSED, tools=False),
    Case("H7", "gzip for later ranges", "zipped/a.bin?size=8M&beyond=1"),
    Case("H8", "gzip for the whole and plain parts", "zipped/a.bin?to=whole"),
    Case("H44", "another answer glued to the body", "glued/a.bin?size=8M"),
    Case("H44", "another answer glued to a whole body", "glued/a.bin?ranges=no"),
    Case("H51", "a length of 2 to the 63", "length/a.bin?value=9223372036854775808", REFUSED),
    Case("H51", "a length of 20 digits", "length/a.bin?value=99999999999999999999", REFUSED),
    Case("H52", "a negative length", "length/a.bin?value=-1", REFUSED),
    Case("H52", "a length with letters", "length/a.bin?value=12abc", REFUSED),
    Case("H52", "a length with a sign", "length/a.bin?value=%2B4194304", REFUSED),
    Case("H53", "two lengths", "length/a.bin?value=4194304&value=2097152", REFUSED),
    Case("H53", "two lengths in one field", "length/a.bin?value=2097152,+4194304", REFUSED),
    Case("H54", "a length and chunks", "both_lengths/a.bin?value=100"),
    Case("H55", "nothing", "file/a.bin?size=0"),
    Case("H55", "nothing in chunks", "chunked/a.bin?size=0"),
    Case("H55", "nothing in a whole answer", "ignored/a.bin?size=0"),
    Case("H56", "a claim of 50 TB", "huge/a.bin", (Run(9, "N"),)),
    Case("H56", "a claim of nearly 2 to the 63", "huge/a.bin?claims=9223372036854775000", (Run(9, "N"),), tools=False),
    Case("H69", "a right digest", f"file/a.bin?line=Repr-Digest:+sha-256%3D:{quote(DIGEST)}:"),
    Case("H69", "a wrong digest", f"file/a.bin?size=5M&line=Repr-Digest:+sha-256%3D:{quote(DIGEST)}:", UNFIT, tools=False),
    Case("H69", "a digest that is none", "file/a.bin?line=Repr-Digest:+sha-256%3D:soon:,+md5%3Dx"),
    Case("H68", "a wrong checksum", "file/a.bin", (Run(15, "N", options=WRONG_SUM), Run(options=RIGHT_SUM)), tools=False),
)

HEADS = (
    Case("H47", "a head that never ends", "loris/a.bin?pause=0.1", (Run(6, "N"),), options=HURRIED),
    Case("H47", "every later head that never ends", "loris/a.bin?size=8M&pause=0.1&from=3&rate=20M&rate@2=0&fault@2=file",
         (Run(6, "P"), GOES_ON), options=HURRIED),
    Case("H47", "a later head that never ends", "loris/a.bin?pause=0.1&from=3&until=3"),
    Case("H49", "a field of 2 MB", "many_fields/a.bin?bytes=2M", (Run(19, "N"),)),
    Case("H49", "100 000 fields", "many_fields/a.bin?count=100000", (Run(19, "N"),)),
    Case("H50", "20 000 early hints", "early/a.bin", (Run(19, "N"),)),
    Case("H50", "20 early hints", "early/a.bin?count=20"),
    Case("H60", "Alt-Svc", "file/a.bin?line=Alt-Svc:+h3%3D%22127.0.0.1:9%22;+ma%3D86400,+h2%3D%22127.0.0.1:9%22"),
    Case("H66", "a date in 1601", "file/a.bin?modified=Mon,+01+Jan+1601+00:00:00+GMT"),
    Case("H66", "a date in 30828", "file/a.bin?modified=Thu,+14+Sep+30828+02:48:05+GMT"),
    Case("H66", "a date that is none", "file/a.bin?modified=yesterday"),
)  # fmt: skip

ELSEWHERE = (Run(17, "N"),)
SLOW = "size=8M&rate=8M"
"""The first connection is not done before others have come."""

REDIRECTS = (
    Case("H29", "a loop", "chain/a.bin?hops=-1", ELSEWHERE, requests=21),
    Case("H29", "25 redirects", "chain/a.bin?hops=25", ELSEWHERE, requests=21),
    Case("H29", "19 redirects", "chain/a.bin?hops=19"),
    Case("H31", "to a local file", "redirect/a.bin?to=file:///etc/passwd", ELSEWHERE, requests=1),
    Case("H32", "to ftp", "redirect/a.bin?to=ftp://127.0.0.1:9/a.bin", ELSEWHERE, requests=1),
    Case("H32", "to gopher", "redirect/a.bin?to=gopher://127.0.0.1:9/a.bin", ELSEWHERE, requests=1),
    Case("H32", "to sftp", "redirect/a.bin?to=sftp://127.0.0.1:9/a.bin", ELSEWHERE, requests=1),
    Case("H32", "to data", "redirect/a.bin?to=data:,a", ELSEWHERE, requests=1),
    Case("H32", "from https to http", "redirect/a.bin?to=http://127.0.0.1:9/a.bin", ELSEWHERE, 1, over="tls", tools=False),
    Case("H34", "a link that is good for three requests", f"signed/a.bin?{SLOW}&uses=3", requests=60, sent=1.1),
    Case("H34", "a link that expires with 410", f"signed/a.bin?{SLOW}&uses=3&status=410", requests=60, sent=1.1),
    Case("H34", "a link that expires with 401", f"signed/a.bin?{SLOW}&uses=3&status=401", requests=60, sent=1.1),
    Case("H34", "a link that expires for good", f"signed/a.bin?{SLOW}&uses=3&dead=1", (Run(18, "P", says="-o"), GOES_ON)),
    Case("H34", "a URL that expires itself", f"signed/a.bin?{SLOW}&uses=3&sticks=1", (Run(18, "P", says="-o"), GOES_ON)),
    Case("H38", "404 for one segment", "silent/a.bin?size=8M&status=404&beyond=4M&rate=8M", (Run(8, "P"),)),
)

NAMES = (
    Case("H61", "a path", "file/a?name=attachment;+filename%3D%22../../evil.bin%22", file="evil.bin"),
    Case("H61", "an absolute path", "file/a?name=attachment;+filename%3D%22/etc/evil.bin%22", file="evil.bin"),
    Case("H61", "an encoded path", "file/a?name=attachment;+filename*%3DUTF-8''%252e%252e%252fevil.bin", file="evil.bin"),
    Case("H61", "a Windows path", "file/a?name=attachment;+filename%3D%22C:%5Cwindows%5Cevil.bin%22", file="evil.bin"),
    Case("H62", "a dot in front", "file/a?name=attachment;+filename%3D.bashrc", file="bashrc"),
    Case("H62", "dots alone", "file/a.bin?name=attachment;+filename%3D..", file="a.bin"),
    Case("H63", "bidirectional", "file/a?name=attachment;+filename*%3DUTF-8''a%25E2%2580%25AEgpj.exe", file="a_gpj.exe"),
    Case("H63", "escapes", "file/a?name=attachment;+filename*%3DUTF-8''a%251B%255B2J%250Ab.bin", file="a_[2J_b.bin"),
    Case("H63", "reserved", "file/a?name=attachment;+filename%3D%22CON.txt%22", file="_CON.txt"),
    Case("H64", "300 letters", f"file/a?name=attachment;+filename%3D{300 * 'n'}.tar.gz", file=234 * "n" + ".tar.gz"),
    Case("H64", "200 umlauts", f"file/a?name=attachment;+filename*%3DUTF-8''{200 * '%25C3%25BC'}.bin", file=118 * "ü" + ".bin"),
    Case("H65", "a name that is taken", "file/a?name=attachment;+filename%3Dtaken.bin", (Run(12, "R"),), file="taken.bin"),
)
