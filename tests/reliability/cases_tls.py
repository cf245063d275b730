"""Cases about certificates, and about TLS streams that end as they should not."""

from __future__ import annotations

from tests.reliability.cases import Case, Run

UNTRUSTED = (Run(16, "N"),)
HURRIED = ("--connect-timeout", "1", "--retries", "0")

CERTIFICATES = (
    Case("D9", "self-signed", "file/a.bin", UNTRUSTED, requests=0, over="self-signed"),
    Case("D10", "another host", "file/a.bin", UNTRUSTED, requests=0, over="wrong-host"),
    Case("D11", "expired", "file/a.bin", UNTRUSTED, requests=0, over="expired"),
    Case("D11", "not valid yet", "file/a.bin", UNTRUSTED, requests=0, over="not-yet"),
    Case("D12", "for clients alone", "file/a.bin", UNTRUSTED, requests=0, over="client-auth"),
)

STREAMS = (
    Case("D13", "a handshake that stalls", "file/a.bin", (Run(6, "N"),), requests=0, over="mute", options=HURRIED),
    Case("D13", "a sound stream", "file/a.bin", over="tls"),
    Case("D13", "bodies that are torn", "cut/a.bin?size=8M&after=700k&how=tear", over="tls", sent=1.1),
    Case("D13", "a torn body without a length", "unsaid/a.bin?cut=2M&how=tear", (Run(6, "N"),), over="tls", options=HURRIED),
    Case("D13", "a torn body with all its bytes and no length", "unsaid/a.bin?how=tear", (Run(6, "N"),), over="tls",
         options=HURRIED, tools=False),
)  # fmt: skip
