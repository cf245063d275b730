"""What a file name that a server chose must not be, written out; not asked of the code that is tested."""

from __future__ import annotations

import os
import re
import unicodedata

BIDI = {chr(c) for c in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
CONTROLS = {chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))}
FORBIDDEN = set('\\/:*?"<>|')
FOLLOWED = (".desktop", ".url", ".lnk", ".scf", ".webloc", ".library-ms")
OURS = (".part", ".fastidm")
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\xb9\xb2\xb3]) *(\..*)?", re.IGNORECASE | re.DOTALL)


def faults_of(name: str) -> list[str]:
    """What is wrong with a file name that a server chose."""
    found = []
    if name in ("", ".", "..") or os.path.dirname(os.path.normpath(os.path.join("/folder", name))) != "/folder":
        found.append("outside the folder")
    if name.startswith("."):
        found.append("a dot file")
    characters = set(name)
    if characters & (CONTROLS | BIDI) or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in characters):
        found.append("a character that moves or hides")
    if characters & FORBIDDEN or name[-1:] in (".", " "):
        found.append("not a name everywhere")
    if DEVICE.fullmatch(name):
        found.append("a device")
    if len(name.encode("utf-8", "surrogatepass")) + len(" (123).fastidm") > 255:
        found.append("too long")
    if name.lower().endswith(FOLLOWED):
        found.append("a link that a desktop follows")
    if name.lower().endswith(OURS):
        found.append("a file of another download")
    return found
