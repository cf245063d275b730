"""Cases about servers that give little, break often, stand still, or want to be asked later."""

from __future__ import annotations

from tests.reliability.cases import Case, Run
from tests.reliability.cases_ranges import FIRST, GOES_ON

REFUSALS = ("503", "429", "reset", "fin", "hold")
ROWS = {"503": "H39", "429": "H39", "reset": "D8", "fin": "D8", "hold": "D7"}

LIMITS = tuple(
    Case(
        ROWS[refuse], f"{most} connections, beyond it {refuse}",
        f"limit/a.bin?size=8M&rate=8M&most={most}&refuse={refuse}&retry={'1' if refuse == '429' else ''}",
        requests=16 + 16 + 4 * most, sent=1.2,
    )
    for most in (2, 3, 4)
    for refuse in REFUSALS
)  # fmt: skip

LATER = (
    Case("H35", "429 and 1 second", "busy/a.bin?status=429&retry=1&until=1"),
    Case("H36", "503 and a date", "busy/a.bin?retry=in:2&until=1"),
    Case("H36", "503 and a date in the past", "busy/a.bin?retry=in:-60&until=2"),
    Case("H36", "503 and garbage", "busy/a.bin?retry=soon&until=1"),
    Case("H36", "503 and a negative number", "busy/a.bin?retry=-1&until=1"),
    *(Case("H37", f"a single {status}", f"busy/a.bin?status={status}&until=1") for status in (500, 502, 504)),
    *(Case("H37", f"a {status} in the middle", f"busy/a.bin?status={status}&from=3&until=3") for status in (500, 502, 504)),
)  # fmt: skip

PATIENCE = ("--timeout", "2", "--connect-timeout", "1", "--retries", "1")
BREAKS = (
    Case("H40", "every body ends after 700 kB", "cut/a.bin?size=8M&after=700k", requests=60, sent=1.1),
    Case("H40", "every body ends after 100 kB", "cut/a.bin?size=8M&after=100k", requests=200, sent=1.1),
    Case("H40", "one stream that ends after 3 MB", "cut/a.bin?size=8M&ranges=no&after=3M&times=1", requests=3, sent=1.6),
    Case("H41", "every body is reset after 700 kB", "cut/a.bin?size=8M&after=700k&how=reset", requests=60, sent=1.1),
    Case("H41", "one in three connections is reset at once", "cut/a.bin?size=8M&headless=1&how=reset&odds=0.3", sent=1.1),
    Case("H45", "one stands still", "cut/a.bin?size=8M&after=100k&how=hold&from=2&until=2", sent=1.5),
    Case("H45", "the first stands still", "cut/a.bin?size=8M&after=1200k&how=hold&until=1", sent=1.5),
    Case("H46", "all stand still", "dies/a.bin?size=8M&how=hold", (Run(6, "P"), GOES_ON), options=PATIENCE),
    Case("H46", "one stream stands still", "cut/a.bin?size=8M&ranges=no&after=3M&how=hold", (Run(6, "P"),), options=PATIENCE),
    Case("H28", "an error page for every later part", "portal/a.bin?size=8M&from=3&rate=20M&rate@2=0&fault@2=file",
         (Run(6, "P"), GOES_ON), options=PATIENCE),
    Case("H28", "an error page once", "portal/a.bin?size=8M&etag=%22a%22&from=3&until=3"),
    Case("D17", "a captive portal on resuming", "dies/a.bin?etag=%22a%22&fault@2=portal&fault@3=file",
         (FIRST, Run(6, "P", "text/html", ("--retries", "1")), GOES_ON)),
    Case("D17", "a captive portal that redirects", "dies/a.bin?fault@2=portal&redirect@2=1&fault@3=file",
         (FIRST, Run(6, "P", "text/html", ("--retries", "1")), GOES_ON)),
)  # fmt: skip
