"""Which name a file gets when the user did not choose one.

Rules of this module:

* Pure functions: text in, text out, no disk.
* One sanitiser, `safe_name`; every name that a server or a URL proposes passes through it, and nothing else is trusted.
* A name it returns is one component: it cannot leave its folder, hide, move a terminal's cursor, pass for an option of a
  command, or be a device on Windows; it has room for what a download puts behind it.
* It is neither a link that a desktop follows nor one of our own files: such a name gets `.download` behind it.
"""

from __future__ import annotations

from collections.abc import Iterator

FALLBACK = "download"
"""The name when nothing usable was proposed."""

PART_SUFFIX = ".part"
JOURNAL_SUFFIX = ".fastidm"

NAME_MAX = 255
"""Bytes that a name may have on every file system of note."""

NUMBER_MAX = len(" (123)")
"""Bytes that are kept free for the number of a second file of the same name."""

_LONGEST = NAME_MAX - max(len(PART_SUFFIX), len(JOURNAL_SUFFIX))
_ROOM = _LONGEST - NUMBER_MAX
_EXTENSION_MAX = 32
_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
_PLAIN_MAX = 64
"""Characters of a name of those in _PLAIN of which nobody asks whether it is too long."""
_HARMLESS = ".download"
_HARMFUL = (
    # A file manager takes commands, addresses or icons from these merely by showing or opening them.
    *(".desktop", ".url", ".lnk", ".scf", ".webloc", ".inetloc", ".fileloc"),
    *(".library-ms", ".search-ms", ".searchconnector-ms"),
    # And these belong to the download of another file.
    *(PART_SUFFIX, JOURNAL_SUFFIX),
)
_FORBIDDEN = frozenset('\\/:*?"<>|')
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [device + digit for device in ("COM", "LPT") for digit in "0123456789\xb9\xb2\xb3"]
)


def safe_name(text: str) -> str:
    """A file name made of `text`: one component of at most 241 bytes of UTF-8, never empty, "." or "..".

    Of a path only the last component is used. `safe_name(safe_name(text)) == safe_name(text)`.
    """
    return _cleaned(text) or FALLBACK


def name_from_url(url: str) -> str:
    """The name that `url` proposes: its last path component, percent-decoded and made safe, or "download"."""
    address = url.partition("#")[0].partition("?")[0]
    path = (address.partition("://")[2] or address).partition("/")[2]
    last = path.rpartition("/")[2]
    return safe_name(_text(_percent_decoded(last)) if "%" in last or not last.isascii() else last)


def name_from_disposition(header: str) -> str | None:
    """The name in the value of a Content-Disposition header, made safe; None if it has none that is of use.

    Reads RFC 6266 with `filename*` of RFC 8187, which wins, and what servers send instead: raw UTF-8 or Latin-1 (also
    UTF-8 that was read as Latin-1), no disposition type, a missing end quote, Windows paths.
    """
    if not header:
        return None
    try:
        header = header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass  # it is what it looks like
    found: dict[str, str] = {}
    for name, value in _parameters(header):
        found.setdefault(name, value)
    extended = _extended_value(found.get("filename*", ""))
    return _cleaned(extended) or _cleaned(found.get("filename", "")) or None


def _cleaned(text: str) -> str:
    """`text` as a safe name, or "" when nothing is left of it."""
    if not text.strip(_PLAIN) and text[-1:] not in (".", "") and text[0] not in ".-" and len(text) <= _PLAIN_MAX:
        # Nothing is wrong with most names.
        if text.partition(".")[0].upper() not in _DEVICES and not text.lower().endswith(_HARMFUL):
            return text
    if not text.isascii():
        import unicodedata

        text = unicodedata.normalize("NFC", text)
    components = [c for c in text.replace("\\", "/").split("/") if c.strip(". ")]
    name = components[-1] if components else ""
    if not name.isprintable() or not _FORBIDDEN.isdisjoint(name):
        name = "".join(map(_visible, name))
    name = name.lstrip(". ").rstrip(". ")
    if name.startswith("-"):
        name = "_" + name[1:]
    name = _shortened(name)
    if name.partition(".")[0].rstrip(" ").upper() in _DEVICES:
        name = _shortened("_" + name)
    if name.lower().endswith(_HARMFUL):
        name = _cut(name, _ROOM - len(_HARMLESS)) + _HARMLESS
    return name


def numbered(name: str, number: int) -> str:
    """`name` with ` (number)` before its extension: what a second file of that name is called. Never too long."""
    stem, extension = _divided(name)
    end = f" ({number}){extension}"
    return _cut(stem, _LONGEST - _size(end)) + end


def _visible(character: str) -> str:
    """The character, or what stands in its place: a plain space for other spaces, "_" for what may not be in a name."""
    if character in _FORBIDDEN:
        return "_"
    if character.isprintable():  # not so: control, format (zero-width, bidi), unassigned; lone surrogates
        return character
    return " " if character > "\x9f" and character.isspace() else "_"


def _divided(name: str) -> tuple[str, str]:
    """(stem, extension with its dot); the extension may be a double one like `.tar.gz`, and is "" if it is none, or long."""
    stem, dot, extension = name.rpartition(".")
    if not stem.strip(". ") or not extension or " " in extension or _size(extension) >= _EXTENSION_MAX:
        return name, ""
    if stem.lower().endswith(".tar") and stem[:-4].strip(". "):
        return stem[:-4], stem[-4:] + dot + extension
    return stem, dot + extension


def _shortened(name: str) -> str:
    """`name` cut to the bytes there is room for, with its extension if that is a short one."""
    if _size(name) <= _ROOM:
        return name
    stem, extension = _divided(name)
    return _cut(stem, _ROOM - _size(extension)) + extension


def _cut(text: str, room: int) -> str:
    """As much of `text` as fits into `room` bytes, cut between characters; no dot or space at its end."""
    text = text[:room]
    while _size(text) > room:
        text = text[:-1]
    return text.rstrip(". ")


def _size(text: str) -> int:
    """Bytes of a name on disk."""
    return len(text.encode("utf-8", "surrogateescape"))


def _percent_decoded(text: str) -> bytes:
    """`text` with each %XX turned into its byte; a "%" that stands before anything else stays."""
    try:
        raw = text.encode("utf-8", "surrogateescape")  # from a shell, bytes that are no UTF-8 come as surrogates
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "replace")
    first, *rest = raw.split(b"%")
    decoded = [first]
    for piece in rest:
        digits = piece[:2]
        if len(digits) == 2 and all(c in b"0123456789abcdefABCDEF" for c in digits):
            decoded += bytes([int(digits, 16)]), piece[2:]
        else:
            decoded += b"%", piece
    return b"".join(decoded)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _extended_value(value: str) -> str:
    """The text of `charset'language'percent-encoded`, or "": UTF-8 and Latin-1 are read, other charsets are not."""
    charset, quote, rest = value.partition("'")
    encoded = rest.partition("'")[2]
    if not quote or charset.lower() not in ("utf-8", "iso-8859-1"):
        return ""
    try:
        return _percent_decoded(encoded).decode(charset)
    except UnicodeError:
        return ""


def _parameters(header: str) -> Iterator[tuple[str, str]]:
    """(name in lower case, value) of every `name=value` and `name="quoted value"` between semicolons."""
    at = 0
    while at < len(header):
        stop = header.find(";", at)
        stop = len(header) if stop < 0 else stop
        equals = header.find("=", at, stop)
        if equals < 0:  # the disposition type, or nothing
            at = stop + 1
            continue
        name = header[at:equals].strip().lower()
        at = equals + 1
        while header[at : at + 1].isspace():
            at += 1
        if header[at : at + 1] == '"':
            value, at = _quoted(header, at + 1)
            stop = header.find(";", at)
            stop = len(header) if stop < 0 else stop
        else:
            stop = max(stop, at)
            value = header[at:stop].strip()
        yield name, value
        at = stop + 1


def _quoted(header: str, at: int) -> tuple[str, int]:
    r"""The text from `at` to the next bare quote, and the place behind it. Escapes are only \" and \\: C:\new stays."""
    value: list[str] = []
    while at < len(header) and header[at] != '"':
        if header[at] == "\\" and header[at + 1 : at + 2] in ('"', "\\"):
            at += 1
        value.append(header[at])
        at += 1
    return "".join(value), at + 1
