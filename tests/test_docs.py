"""What the docs say is what the code does: pictures, tables, flags, commands, names and links."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from fastidm.cli.arguments import parse
from fastidm.cli.usage import make_parser, spellings
from fastidm.core.phase import TRANSITIONS, Phase
from fastidm.demo.__main__ import parser as demo_parser
from fastidm.errors import EXIT_CODES
from tests.support.servers import DemoServer

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastidm"
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = ["draw_states", "draw_display"]
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of `text` in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """What stands between backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def commands() -> list[list[str]]:
    """Every command line in the README, as words; assignments before the command are among them."""
    lines = "\n".join(blocks(README, "sh")).replace("\\\n", " ").splitlines()
    lines += [piece for piece in code(README) if piece.startswith("make ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def script(name: str) -> ModuleType:
    """docs/NAME.py as a module."""
    path = ROOT / "docs" / f"{name}.py"
    module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)  # importing leaves a cache in docs/
    return module


# --- pictures ---


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_committed_picture_is_what_its_script_draws(name: str) -> None:
    done = subprocess.run([sys.executable, f"docs/{name}.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stale_picture_is_noticed_and_drawn_anew(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script(name)
    monkeypatch.setattr(module, "PICTURE", tmp_path / "picture.svg")
    assert module.main(["--check"]) == 1
    module.PICTURE.write_text(module.picture() + "\n")
    assert module.main(["--check"]) == 1
    assert f"docs/{name}.py" in capsys.readouterr().err
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0


@pytest.mark.parametrize("name", ["states", "display"])
def test_a_picture_is_plain_svg(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert tags <= {"svg", "title", "desc", "style", "defs", "marker", "rect", "path", "circle", "text"}
    assert not re.search(r"href|@import|@font-face|url\((?!#)", text)


def test_the_picture_of_the_states_shows_every_phase_and_every_event() -> None:
    root = ElementTree.fromstring((ROOT / "docs" / "states.svg").read_text(encoding="utf-8"))
    shown = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {phase.name for phase in Phase} | {event for _, event in TRANSITIONS} <= shown


@pytest.mark.parametrize("change", ["another", "fewer", "elsewhere"])
def test_a_transition_that_the_picture_cannot_show_is_an_error(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, table = script("draw_states"), dict(TRANSITIONS)
    if change == "another":
        table[Phase.FAILED, "start"] = Phase.PROBING
    elif change == "fewer":
        del table[Phase.PAUSED, "finish"]
    else:
        table[Phase.OPENING, "open"] = Phase.FINISHING
    monkeypatch.setattr(module, "TRANSITIONS", table)
    with pytest.raises(ValueError, match="disagree"):
        module.picture()


# --- README ---


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", README, re.MULTILINE)
    assert {int(number): (name, meaning) for number, name, meaning in rows} == EXIT_CODES


def test_every_flag_in_the_readme_exists() -> None:
    known = {
        "fastidm.demo": {flag for action in demo_parser()._actions for flag in action.option_strings},
        "": set(spellings(make_parser())),
    }
    pieces = [*code(README), *"\n".join(blocks(README, "sh")).splitlines()]
    named = {(demo, flag) for p in pieces for _, demo, rest in [split_at_demo(p)] for flag in FLAG.findall(rest)}
    assert len(named) > 15
    assert [(demo, flag) for demo, flag in sorted(named) if flag not in known[demo]] == []


def split_at_demo(text: str) -> tuple[str, str, str]:
    """(before, "fastidm.demo", after), or ("", "", text) where the demo server is not named."""
    before, demo, after = text.partition("fastidm.demo")
    return (before, demo, after) if demo else ("", "", text)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_in_the_readme_can_be_given(words: list[str]) -> None:
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program, *arguments = words[len(environment) :]
    if program == "fastidm":
        assert parse(arguments, environment).urls
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)
    elif program == "python":
        assert arguments[:2] == ["-m", "fastidm.demo"]
        demo_parser().parse_args(arguments[2:])
    else:
        assert words == ["pip", "install", "."]


def test_the_readme_has_five_examples_and_the_commands_of_a_contributor() -> None:
    examples = re.search(r"^## Five examples$(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert examples is not None
    assert len(re.findall(r"^(?:\w+=\w+ )?fastidm ", "\n".join(blocks(examples[1], "sh")), re.MULTILINE)) == 5
    assert {"make demo", "make test", "pip install ."} <= {" ".join(words) for words in commands()}


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_the_python_in_the_readme_runs(number: int, tmp_path: Path) -> None:
    source = blocks(README, "python")[number]
    with DemoServer(rate=None) as server:
        for name, served in (("disk.iso", "3M.bin"), ("a.zip", "1M.bin"), ("b.zip", "2M.bin"), ("c.zip", "10k.bin")):
            source = source.replace(name, served)
        source = source.replace("https://example.com", server.base)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", source]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = ["3M.bin"] if number == 0 else ["10k.bin", "1M.bin", "2M.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == wanted
    assert all(name in done.stdout for name in wanted)


# --- links, and names in docs/design.md ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of `text`."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sources() -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        yield path.read_text(encoding="utf-8")


def names_in_use() -> set[str]:
    """Every name in the source of the package, comments and strings left out (in C: every word)."""
    found = set(re.findall(r"\w+", (PACKAGE / "_hotpath.c").read_text(encoding="utf-8")))
    for text in sources():
        found.update(t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME)
    return found


def members() -> dict[str, set[str]]:
    """Class -> what it defines; classes of one name are taken together."""
    found: dict[str, set[str]] = {}
    for text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                own = found.setdefault(node.name, set())
                own.update(n.name for n in node.body if isinstance(n, ast.FunctionDef))
                own.update(n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return found


def exists(name: str, names: set[str], classes: dict[str, set[str]]) -> bool:
    """Whether `name` ("judge", "Engine.run", "core.response.judge", "core/task.py", "core/") is something in the source."""
    if "/" in name or re.search(r"\.(py|c|md|svg)$", name):
        return (PACKAGE / name).exists() or (ROOT / name).exists()
    *path, last = name.split(".")
    if path in ([], ["os"]):
        return last in names
    if path[-1] in classes:
        return last in classes[path[-1]]
    module = PACKAGE.joinpath(*path) if path != ["fastidm"] else PACKAGE
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    return file.exists() and bool(re.search(rf"^(def |class |){last}\b", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_name_in_the_design_exists() -> None:
    names, classes = names_in_use(), members()
    said = {word for word in code(DESIGN) if re.fullmatch(r"[\w./]+", word) and not word.startswith("NAME.")}
    assert len(said) > 100
    assert sorted(word for word in said if not exists(word, names, classes)) == []
    for stale in ("Engine.fly", "core.response.guess", "core/tasks.py", "gues_s"):
        assert not exists(stale, names, classes)
