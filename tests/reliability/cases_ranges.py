"""Cases about ranges and validators: answers that are not what was asked for, and files that change."""

from __future__ import annotations

from tests.reliability.cases import DONE, Case, Run
from tests.support.content import content, sha256

DATE = "modified=Sun,+06+Nov+1994+08:49:37+GMT"
DATE_2 = "modified@2=Mon,+07+Nov+1994+08:49:37+GMT"

UNFIT = (Run(15, "N"),)
RIGHT_SUM = ("--checksum", "sha256:" + sha256(content(4 << 20, 1)))

CALM = "size=8M&slow=1&crawl=8M"
"""The first answer is no faster than the client reads: what lies in the kernel counts as sent."""
LATER = "size=16M&slow=1&crawl=8M&beyond=1"
"""The same, and the fault meets all requests but the first."""

FIRST = Run(6, "P", options=("--retries", "0"))
"""A run that ends half-way, since the server does."""
CHANGED = Run(8, "P", says="--restart")
ANEW = Run(options=("--on-change", "restart"))
GOES_ON = Run(again=1 << 20)

LIES = (
    Case("H9", "a server without ranges", "ignored/a.bin?size=8M", requests=20, sent=1.1),
    Case("H9", "a server without ranges and without validators", "ignored/a.bin?size=8M&rate=16M", requests=20, sent=1.1),
    Case("H10", "a server that stops doing ranges", "ignored/a.bin?size=16M&etag=%22a%22&from=2", requests=20, sent=1.1),
    Case("H10", "the same with slow bodies", "ignored/a.bin?size=8M&etag=%22a%22&from=3&rate=4M", requests=20, sent=2.1),
    Case("H10", "ranges from the beginning only", f"ignored/a.bin?{LATER}", requests=20, sent=1.1),
    Case("H11", "parts without Content-Range", "unplaced/a.bin?size=8M", requests=20, sent=1.1),
    Case("H11", "later parts without Content-Range", f"unplaced/a.bin?{LATER}", requests=20, sent=1.1),
    Case("H12", "parts that begin later", "shifted/a.bin?size=8M&by=1000", requests=20, sent=1.1),
    Case("H12", "later parts that begin earlier", f"shifted/a.bin?{LATER}&by=-1000", requests=20, sent=1.1),
    Case("H12", "one part that begins later", f"shifted/a.bin?{CALM}&by=65536&from=3&until=3", requests=40, sent=1.1),
    Case("H13", "parts with other bytes than they say", f"liar/a.bin?{CALM}&beyond=1", UNFIT, 20, 1.1),
    Case("H13", "one part with other bytes than it says", f"liar/a.bin?{CALM}&from=3&until=3", UNFIT, 20, 1.1),
    Case("H13", "late and other bytes in the last part", f"liar/a.bin?{CALM}&from=8&wait=0.1", UNFIT, 20, 1.1),
    Case("H13", "parts a byte beside what they say", f"liar/a.bin?{CALM}&by=1&beyond=1", UNFIT, 20, 1.1),
    Case("H13", "other bytes from the beginning on, and a checksum", "liar/a.bin?by=4096", UNFIT, 20, None, RIGHT_SUM,
         tools=False),
    Case("H15", "parts of an unsaid total", f"other_total/a.bin?{LATER}", requests=40, sent=1.1),
    Case("H15", "only parts of an unsaid total", "other_total/a.bin?size=8M", requests=20, sent=1.1),
    Case("H16", "multipart for one range", "multipart/a.bin?size=8M", requests=20, sent=1.1),
    Case("H16", "multipart for later parts", f"multipart/a.bin?{LATER}", requests=20, sent=1.1),
    Case("H25", "416 to every range", "unsatisfied/a.bin?size=8M", requests=20, sent=1.1),
    Case("H25", "416 to every later range", f"unsatisfied/a.bin?{LATER}", requests=20, sent=1.1),
    Case("H42", "parts that are shorter than asked for", "shorter/a.bin?size=8M&most=300k", requests=80, sent=1.1),
    Case("H43", "parts that are longer than asked for", "longer/a.bin?size=8M&more=1M", requests=40, sent=1.6),
    Case("H43", "parts to the end of the file", "longer/a.bin?size=8M&more=8M", requests=40, sent=2),
)

CHANGES = (
    Case("H14", "another total in later parts", f"other_total/a.bin?{CALM}&total=8000000&beyond=1", (CHANGED,), 20, 1.1),
    Case("H17", "an ETag that changes in the middle", f"file/a.bin?{CALM}&etag=%22a%22&etag@2=%22b%22&seed@2=2&switch=3",
         (Run(8, "P"),), 20, 1.1),
    Case("H17", "a size that changes in the middle", f"file/a.bin?{CALM}&size@2=9M&seed@2=2&switch=3", (Run(8, "P"),), 20, 1.1),
    Case("H17", "a change in the middle and leave to begin anew",
         "file/a.bin?size=8M&etag=%22a%22&etag@2=%22b%22&seed@2=2&seed=2&switch=3", (ANEW,), tools=False),
    Case("H18", "another ETag in the second run", "dies/a.bin?etag=%22a%22&etag@2=%22b%22&seed@2=2", (FIRST, CHANGED)),
    Case("H18", "another ETag and leave to begin anew", "dies/a.bin?etag=%22a%22&etag@2=%22b%22&seed@2=2", (FIRST, ANEW),
         tools=False),
    Case("H18", "another ETag with the same date", f"dies/a.bin?etag=%22a%22&etag@2=%22b%22&{DATE}&seed@2=2", (FIRST, CHANGED)),
    Case("H19", "another size in the second run", "dies/a.bin?size@2=5M&seed@2=2", (FIRST, CHANGED)),
    Case("H19", "another size and leave to begin anew", "dies/a.bin?size@2=5M&seed@2=2", (FIRST, ANEW), tools=False),
    Case("H20", "a weak ETag and the same file", "dies/a.bin?etag=W/%22a%22", (FIRST, GOES_ON)),
    Case("H20", "a weak ETag and another file", "dies/a.bin?etag=W/%22a%22&seed@2=2", (FIRST, CHANGED)),
    Case("H21", "each node with its own ETag", f"file/a.bin?{CALM}&{DATE}&etag=%22{{node}}%22", DONE, 40, 1.1),
    Case("H21", "each node with its own ETag in two runs", f"dies/a.bin?{DATE}&etag=%22{{node}}%22", (FIRST, GOES_ON)),
    Case("H22", "another date in the second run", f"dies/a.bin?{DATE}&{DATE_2}&seed@2=2", (FIRST, CHANGED)),
    Case("H22", "the same date and the same file", f"dies/a.bin?{DATE}", (FIRST, GOES_ON)),
    Case("H23", "no validator and another file", "dies/a.bin?seed@2=2", (FIRST, CHANGED)),
    Case("H23", "no validator and the same file", "dies/a.bin", (FIRST, GOES_ON)),
    Case("H23", "no validator and a change in the middle", f"file/a.bin?{CALM}&seed@2=2&switch=3", UNFIT, 20, 1.1),
    Case("H26", "416 with a smaller total in the second run", "dies/a.bin?fault@2=unsatisfied&total@2=100", (FIRST, CHANGED)),
    Case("H27", "412 in the second run", "dies/a.bin?fault@2=silent&status@2=412", (FIRST, Run(8, "P"))),
)  # fmt: skip
