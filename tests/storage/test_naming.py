"""Names: whatever a server or a URL proposes, what comes out is one harmless component."""

from __future__ import annotations

import os
import time
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastidm.storage.naming import name_from_disposition, name_from_url, numbered, safe_name

NASTY = [
    *(
        "/",
        "\\",
        "..",
        ".",
        " ",
        ":",
        "*",
        "?",
        '"',
        "<",
        ">",
        "|",
        "\0",
        "\n",
        "\x1b[2J",
        "\x7f",
        "\x9b",
        "%2f",
        "%",
        "~",
    ),
    *(
        "\u202e",
        "\u2066",
        "\u200f",
        "\u200b",
        "\ufeff",
        "\u2028",
        "\u3000",
        "\xa0",
        "\ud800",
        "\udce9",
        "e\u0301",
        "\u0301",
    ),
    *(
        "CON",
        "nul",
        "COM1",
        "lpt\xb9",
        "con.txt",
        ".bashrc",
        ".tar.gz",
        ".part",
        "ä",
        "漢",
        "🙂",
        "x" * 260,
        "漢" * 120,
    ),
]
HOSTILE = st.lists(st.one_of(st.text(st.characters()), st.sampled_from(NASTY)), max_size=8).map("".join)
DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {d + n for d in ("COM", "LPT") for n in "0123456789¹²³"}


def assert_harmless(name: str, room: str = " (123).fastidm") -> None:
    assert name not in ("", ".", "..")
    assert not set(name) & set('\\/:*?"<>|')
    assert name.isprintable()  # neither control nor bidi nor zero-width characters
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert name.partition(".")[0].rstrip().upper() not in DEVICES
    assert not name.startswith("-")
    assert not name.lower().endswith((".desktop", ".url", ".lnk", ".scf", ".webloc", ".library-ms", ".part", ".fastidm"))
    assert len(os.fsencode(name + room)) <= 255
    assert unicodedata.normalize("NFC", name) == name


@given(HOSTILE)
@example("CON" + " " * 300 + ".txt")
@example("x" * 300 + "." + "y" * 300)
@example("a" + "." * 300 + "txt")
@example("x" * 240 + " " + "y" * 50)
@example("CON" + " " * 300 + "x.txt")
@example("x" * 233 + ".desktop" + "y" * 50)
@example("x" * 300 + ".desktop")
def test_any_text_becomes_a_harmless_name_and_stays_it(text: str) -> None:
    name = safe_name(text)
    assert_harmless(name)
    assert safe_name(name) == name


@settings(max_examples=25)
@given(HOSTILE)
def test_a_safe_name_can_be_created_and_lands_in_its_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    (folder / safe_name(text)).write_bytes(b"")
    assert len(list(folder.iterdir())) == 1


@given(HOSTILE)
def test_no_header_and_no_url_leads_out_of_the_folder(text: str) -> None:
    assert_harmless(name_from_url(text))
    assert_harmless(name_from_url("https://host/" + text))
    for header in (text, f'attachment; filename="{text}"', f"attachment; filename*=UTF-8''{text}"):
        name = name_from_disposition(header)
        if name is not None:
            assert_harmless(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain.txt", "plain.txt"),
        ("two words.txt", "two words.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\report.pdf", "report.pdf"),
        ("/absolute/", "absolute"),
        (".bashrc", "bashrc"),
        ("...", "download"),
        ("", "download"),
        ("..", "download"),
        ("a/..", "a"),
        ("line\nbreak", "line_break"),
        ("evil\u202egpj.exe", "evil_gpj.exe"),
        ("zero\u200bwidth", "zero_width"),
        ("a:b*c?d", "a_b_c_d"),
        ("trailing. . ", "trailing"),
        ("CON", "_CON"),
        ("nul.tar.gz", "_nul.tar.gz"),
        ("com1 .txt", "_com1 .txt"),
        ("console.txt", "console.txt"),
        ("cafe\u0301.txt", "caf\xe9.txt"),
        ("日本\u3000語.zip", "日本 語.zip"),
        ("lone\ud800surrogate", "lone_surrogate"),
        ("-rf", "_rf"),
        ("--help.txt", "_-help.txt"),
        ("evil.desktop", "evil.desktop.download"),
        ("Evil.LNK. ", "Evil.LNK.download"),
        ("view.library-ms", "view.library-ms.download"),
        ("other.iso.part", "other.iso.part.download"),
        ("other.iso.fastidm", "other.iso.fastidm.download"),
        (".desktop", "desktop"),
        ("a.lnk\u212a", "a.lnkK"),
        ("a.ln\u212a", "a.lnK.download"),
    ],
)
def test_examples_of_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_a_long_name_is_cut_between_characters_and_keeps_its_extension() -> None:
    assert safe_name("x" * 300 + ".iso") == "x" * 237 + ".iso"
    assert safe_name("漢" * 100 + ".tar.gz") == "漢" * 78 + ".tar.gz"
    assert safe_name("x" + "漢" * 100 + ".zip") == "x" + "漢" * 78 + ".zip"
    assert safe_name("x" * 300 + "." + "y" * 40) == "x" * 241


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("disk.iso", "disk (2).iso"),
        ("src.tar.gz", "src (2).tar.gz"),
        ("SRC.TAR.XZ", "SRC (2).TAR.XZ"),
        (".tar.gz", ".tar (2).gz"),
        ("README", "README (2)"),
        (".profile", ".profile (2)"),
        ("Vol. 2 of 3", "Vol. 2 of 3 (2)"),
        ("ends with a dot.", "ends with a dot (2)"),
        ("disk (2).iso", "disk (2) (2).iso"),
        ("bytes\udce9.txt", "bytes\udce9 (2).txt"),
        ("x" * 300 + ".iso", "x" * 239 + " (2).iso"),
        ("漢" * 90 + ".tar.gz", "漢" * 78 + " (2).tar.gz"),
    ],
)
def test_a_second_file_of_a_name_is_numbered_before_its_extension(name: str, second: str) -> None:
    assert numbered(name, 2) == second


@given(HOSTILE.map(safe_name), st.integers(1, 999))
def test_a_numbered_name_is_as_harmless(name: str, number: int) -> None:
    second = numbered(name, number)
    assert f" ({number})" in second
    assert_harmless(second, room=".fastidm")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/b/file.iso", "file.iso"),
        ("https://host/file.iso?token=secret/x#part/y", "file.iso"),
        ("https://host/", "download"),
        ("https://host", "download"),
        ("https://host/dir/", "download"),
        ("https://user:pw@host:8080/f", "f"),
        ("https://host/with%20space.txt", "with space.txt"),
        ("https://host/%2e%2e%2f%2e%2e%2fevil", "evil"),
        ("https://host/%2e%2e", "download"),
        ("https://host/caf%C3%A9", "café"),
        ("https://host/caf%E9", "café"),
        ("https://host/caf\udce9", "café"),
        ("https://host/100%", "100%"),
        ("https://host/100%zz%4", "100%zz%4"),
        ("https://host/new%0Aline", "new_line"),
        ("host/file", "file"),
    ],
)
def test_a_url_proposes_its_last_component(url: str, name: str) -> None:
    assert name_from_url(url) == name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment", None),
        ("", None),
        ("attachment; filename=plain.txt", "plain.txt"),
        ("attachment; filename = spaced.txt ; size=3", "spaced.txt"),
        ('ATTACHMENT; FILENAME="upper.txt"', "upper.txt"),
        ('inline; filename="in line; really.txt"; x=y', "in line; really.txt"),
        ('attachment; filename="a \\"quoted\\" name"', "a _quoted_ name"),
        ('attachment; filename="C:\\temp\\new.txt"', "new.txt"),
        ('attachment; filename="never ends.txt', "never ends.txt"),
        ('filename="no type.txt"', "no type.txt"),
        ('attachment; filename=""', None),
        ('attachment; filename="../.."', None),
        ('attachment; filename="../../evil"', "evil"),
        ("attachment; filename=first.txt; filename=second.txt", "first.txt"),
        ("attachment; filename=old.txt; filename*=UTF-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
        ("attachment; filename*=utf-8'en'na%C3%AFve.txt; filename=old.txt", "naïve.txt"),
        ("attachment; filename*=iso-8859-1''%A3.txt", "£.txt"),
        ("attachment; filename*=\"UTF-8''quoted.txt\"", "quoted.txt"),
        ("attachment; filename=old.txt; filename*=UTF-8''%ff%fe", "old.txt"),
        ("attachment; filename=old.txt; filename*=rot13''byq.gkg", "old.txt"),
        ("attachment; filename=old.txt; filename*=nonsense", "old.txt"),
        ("attachment; filename=old.txt; filename*=UTF-8''..%2f", "old.txt"),
        ("attachment; filename*=UTF-8''..%2f..%2fevil.txt", "evil.txt"),
        ('attachment; filename="caf\xe9.txt"', "café.txt"),
        ('attachment; filename="caf\xc3\xa9.txt"', "café.txt"),
        ('attachment; filename="日本.txt"', "日本.txt"),
        ('attachment; xfilename="other.txt"', None),
        ("attachment; filename", None),
        ("attachment;;; filename=semicolons.txt;", "semicolons.txt"),
    ],
)
def test_examples_of_content_disposition(header: str, name: str | None) -> None:
    assert name_from_disposition(header) == name


@given(HOSTILE.map(safe_name))
def test_a_name_survives_each_way_to_write_it_into_a_header(name: str) -> None:
    raw = f'attachment; filename="{name}"'
    assert name_from_disposition(raw.encode().decode("latin-1")) == name
    assert name_from_disposition(f"attachment; filename=x; filename*=UTF-8''{quote(name)}") == name


def test_hostile_headers_take_time_in_proportion_to_their_length() -> None:
    begun = time.process_time()
    for piece in ('";', '="', "\\", ";", "=", "a=b;", '\\"', "%", "%2", "'"):
        name = name_from_disposition("a; filename*=utf-8''" + piece * 30_000 + '; filename="' + piece * 30_000)
        if name is not None:
            assert_harmless(name)
    assert time.process_time() - begun < 3  # measured 0.15 s; with quadratic time it is minutes
