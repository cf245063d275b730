"""The arithmetic of the benchmark suite: a wrong median would be believed for years. Measured is once, a little."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import claims, compare, content, figures, ideals, measure, suite
from benchmarks.claims import Claim
from benchmarks.model import GIB, MIB, Counts, Extra, Run, Scenario, Site, Unable
from benchmarks.origins import Missing
from benchmarks.report import lines, write
from benchmarks.report.document import CAVEATS
from benchmarks.scenarios import all_scenarios
from benchmarks.scenarios.many import mixed
from benchmarks.tools import all_tools, is_ours, is_peer

TOOLS = all_tools()


def run(scenario: str, tool: str, wall: float, **more: Any) -> Run:
    """A run with the right content, unless `more` says otherwise."""
    made = Run(scenario, tool, tool.upper(), 1, GIB, wall=wall, user=wall / 4, system=wall / 4, correct=True)
    for name, value in more.items():
        setattr(made, name, value)
    return made


# Figures


def test_a_row_has_the_median_and_the_extremes() -> None:
    row = figures.summarise([run("s", "a", wall) for wall in (5.0, 1.0, 2.0)])["s"]["a"]
    assert row.figures["wall"] == figures.Spread(2.0, 1.0, 5.0, 3)
    assert row.median("cpu") == 1.0
    assert row.median("cpu_per_gib") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "spoiled",
    [{"warmup": True}, {"failure": "status 1"}, {"correct": False}, {"unable": "no HTTP/2"}],
    ids=lambda s: next(iter(s)),
)
def test_what_was_not_measured_or_is_wrong_has_no_time(spoiled: dict[str, Any]) -> None:
    row = figures.summarise([run("s", "a", 1.0), run("s", "a", 9.0, **spoiled)])["s"]["a"]
    assert row.count == 1
    assert row.median("wall") == 1.0


def test_the_first_failure_is_kept() -> None:
    row = figures.summarise([run("s", "a", 1.0), run("s", "a", 9.0, failure="wrong content")])["s"]["a"]
    assert row.failure == "wrong content"


def test_rows_go_from_the_fastest_to_the_slowest_and_failures_come_last() -> None:
    runs = [run("s", "slow", 3.0), run("s", "bad", 1.0, failure="status 1"), run("s", "fast", 2.0)]
    assert list(figures.summarise(runs)["s"]) == ["fast", "slow", "bad"]


def test_a_time_is_compared_with_the_ideal_where_there_is_one_and_else_with_the_floor() -> None:
    throttled = figures.summarise([run("s", "a", 3.0, ideal=2.0), run("s", "floor", 2.5, ideal=2.0)])["s"]
    assert figures.against(throttled, "a") == ("× ideal", 1.5)
    plain = figures.summarise([run("s", "a", 3.0), run("s", "floor", 2.0)])["s"]
    assert figures.against(plain, "a") == ("× floor", 1.5)
    assert figures.against({"a": plain["a"]}, "a") == ("× floor", None)


@pytest.mark.parametrize(("over", "under"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_a_ratio_of_nothing_is_nothing(over: float | None, under: float | None) -> None:
    assert figures.ratio(over, under) is None


def test_noise_shrinks_with_the_number_of_values_and_is_everything_for_one() -> None:
    assert figures.noise([1.0]) == 1.0
    assert figures.noise([1.0, 1.2]) == pytest.approx(0.2 / 1.1)
    few, many = [1.0, 1.1, 1.2, 1.3, 1.4], [1.0, 1.1, 1.2, 1.3, 1.4] * 16
    assert figures.noise(few) == pytest.approx(4 * figures.noise(many))


# Ideals


def test_a_cap_is_shared_by_all_connections() -> None:
    assert ideals.capped(512 * MIB, 16, 4 * MIB) == 8.0


def test_every_fifth_of_sixteen_connections_is_three() -> None:
    assert ideals.uneven(1000, 16, rate=10, slow=1, every=5) == pytest.approx(1000 / 133)


def test_after_a_collapse_the_others_carry_on() -> None:
    assert ideals.collapsing(1000, 10, rate=10, after=50, rest=1) == pytest.approx(5 + 500 / 91)
    assert ideals.collapsing(400, 10, rate=10, after=50, rest=1) == 4.0


def test_a_limit_counts_and_not_what_was_asked_for() -> None:
    assert ideals.limited(1000, 16, rate=10, limit=4) == 25.0
    assert ideals.limited(1000, 2, rate=10, limit=4) == 50.0


def test_a_round_trip_is_paid_for_the_handshake_the_request_and_each_full_window() -> None:
    first = ideals.INITIAL_WINDOW
    assert ideals.distant(first, 1, rtt=1.0, window=MIB) == 2.0
    assert ideals.distant(first + 1, 1, rtt=1.0, window=MIB) == 3.0
    assert ideals.distant(3 * first, 1, rtt=1.0, window=MIB) == 3.0
    assert ideals.distant(3 * first, 1, rtt=1.0, window=first) == 4.0
    assert ideals.distant(4 * first, 4, rtt=1.0, window=first) == 2.0


def test_a_common_link_bounds_what_the_windows_would_allow() -> None:
    assert ideals.distant(1000, 16, rtt=1.0, window=MIB, link=100) == pytest.approx(2 + 10)


def test_every_throttled_scenario_has_a_finite_ideal_for_its_sizes() -> None:
    for scenario in all_scenarios().values():
        if scenario.ideal:
            assert (
                0
                < scenario.ideal(scenario.quick, scenario.connections)
                < scenario.ideal(scenario.size, scenario.connections)
                < 60
            )


# Claims


def verdict(table: figures.Table, *claim: Any, **more: Any) -> tuple[float | None, str]:
    made = claims.judge(table, [Claim(*claim, **more)])[0]
    return made.measured, made.word


def test_a_claim_is_judged_by_the_ratio_of_medians() -> None:
    table = figures.summarise([run("plain", "fastidm", 1.0), run("plain", "curl", 2.0)])
    assert verdict(table, "plain", "wall", 0.5, "curl") == (0.5, "holds")
    assert verdict(table, "plain", "cpu", 0.4, "curl") == (0.5, "DOES NOT HOLD")
    assert verdict(table, "plain", "rss", 1, "") == (0.0, "holds")


def test_a_claim_is_not_judged_by_files_that_are_smaller_than_those_it_is_about() -> None:
    table = figures.summarise([run("plain", tool, wall, size=256 * MIB) for tool, wall in (("fastidm", 1.0), ("curl", 1.1))])
    assert verdict(table, "plain", "wall", 0.5, "curl") == (pytest.approx(1 / 1.1), "not judged at this size")
    assert verdict(table, "plain", "rss", 1, "")[1] == "not judged at this size"


def test_a_claim_without_runs_is_not_measured() -> None:
    table = figures.summarise([run("plain", "fastidm", 1.0), run("plain", "curl", 2.0, failure="status 1")])
    assert verdict(table, "plain", "wall", 0.5, "curl") == (None, "not measured")
    assert verdict(table, "plain", "wall", 0.5, "wget") == (None, "not measured")
    assert verdict(table, "tls", "wall", 0.5, "curl") == (None, "not measured")
    failed = figures.summarise([run("plain", "fastidm", 1.0, failure="status 1"), run("plain", "curl", 2.0)])
    assert verdict(failed, "plain", "wall", 0.9, "curl") == (None, "not measured")


def test_the_best_peer_is_neither_ours_nor_the_floor_nor_one_that_failed() -> None:
    runs = [run("capped", "fastidm", 2.0, ideal=1.9), run("capped", "fastidm_pwrite", 1.0), run("capped", "floor", 1.0)]
    runs += [run("capped", "axel", 1.5, failure="wrong content"), run("capped", "aria2c", 4.0), run("capped", "curl", 9.0)]
    table = figures.summarise(runs)
    assert verdict(table, "capped", "wall", 1.0, claims.BEST_PEER) == (0.5, "holds")
    assert verdict(table, "capped", "wall", 1.08, claims.IDEAL) == (pytest.approx(2.0 / 1.9), "holds")


def test_auto_is_compared_with_the_better_forced_mode() -> None:
    runs = [run("plain", "fastidm", 2.2), run("plain", "fastidm_mmap", 4.0)]
    claim = ("plain", "cpu", 1.15, claims.FORCED)
    assert verdict(figures.summarise(runs), *claim) == (None, "not measured")
    assert verdict(figures.summarise([*runs, run("plain", "fastidm_pwrite", 2.0)]), *claim) == (pytest.approx(1.1), "holds")


def test_what_waits_for_the_disk_is_compared_with_the_disk_where_that_is_the_limit() -> None:
    runs = [run("plain", "fastidm_synced", 3.0), run("plain", "fastidm", 2.0)]
    claim = ("plain", "wall", 1.25, claims.SLOWER)
    assert verdict(figures.summarise(runs), *claim, tool="fastidm_synced") == (None, "not measured")
    for disk, measured, word in ((1.0, 1.5, "DOES NOT HOLD"), (2.5, 1.2, "holds")):
        table = figures.summarise([*runs, run("plain", "disk", disk)])
        assert verdict(table, *claim, tool="fastidm_synced") == (pytest.approx(measured), word)


def test_cost_per_gib_is_compared_across_scenarios() -> None:
    runs = [run("hundred", "fastidm_api", 1.3), run("plain", "fastidm_api", 4.0, size=4 * GIB)]
    claim = Claim("hundred", "cpu_per_gib", 1.3, "fastidm_api", tool="fastidm_api", other_scenario="plain")
    made = claims.judge(figures.summarise(runs), [claim])[0]
    assert made.measured == pytest.approx(1.3)


def test_what_the_server_sent_is_judged_in_every_scenario_but_where_it_has_to_send_twice() -> None:
    runs = [run(scenario, "fastidm", 1.0, sent=103 * GIB // 100) for scenario in ("plain", "resets")]
    found = [v for v in claims.judge(figures.summarise(runs), []) if v.claim.figure == "sent_ratio"]
    assert [(v.claim.scenario, v.measured, v.word) for v in found] == [("plain", pytest.approx(1.03), "DOES NOT HOLD")]


def test_every_claim_names_a_scenario_and_tools_that_exist() -> None:
    special = ("", claims.IDEAL, claims.BEST_PEER, claims.FORCED, claims.SLOWER)
    for claim in claims.CLAIMS:
        assert claim.scenario in all_scenarios() and claim.tool in TOOLS
        assert claim.other in special or claim.other in TOOLS
        assert claim.other_scenario in ("", *all_scenarios())
        assert suite.makes_sense(all_scenarios()[claim.scenario], claim.tool)
        assert claim.other in special or suite.makes_sense(all_scenarios()[claim.other_scenario or claim.scenario], claim.other)


# Tools and scenarios


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_has_the_three_names(name: str) -> None:
    tool = TOOLS[name]
    assert isinstance(tool.label, str) and tool.__doc__
    assert list(inspect.signature(tool.version).parameters) == []
    assert list(inspect.signature(tool.command).parameters) == ["url", "path", "connections", "extra"]
    if hasattr(tool, "many"):
        assert list(inspect.signature(tool.many).parameters) == ["urls", "folder", "parallel", "connections", "extra"]


@pytest.mark.parametrize("name", [name for name, tool in TOOLS.items() if getattr(tool, "downloads", True)])
def test_every_tool_says_url_and_path_in_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOOLS["floor"], "program", lambda flavour: f"/programs/{flavour}")
    words = " ".join(TOOLS[name].command("http://127.0.0.1:81/file.bin", "/folder/name.bin", 16, Extra(size=MIB)))
    assert "81" in words and "file.bin" in words and "/folder" in words and "name.bin" in words


def test_labels_are_unique() -> None:
    labels = [tool.label for tool in TOOLS.values()]
    assert len(set(labels)) == len(labels)


def test_tools_are_ours_or_peers_or_baselines() -> None:
    others = [name for name in TOOLS if not is_ours(name) and not is_peer(name)]
    assert sorted(others) == ["disk", "floor", "floor_synced", "libcurl"] and all(TOOLS[name].baseline for name in others)


def test_a_scenario_names_tools_that_exist() -> None:
    for scenario in all_scenarios().values():
        assert {*scenario.tools, *scenario.variants} <= set(TOOLS)
        assert all(size > 0 for size in scenario.sizes(scenario.quick))


def test_mixed_files_are_ten_and_the_largest_is_half() -> None:
    sizes = mixed(512 * MIB)
    assert len(sizes) == 10 and sizes[-1] == max(sizes) == 256 * MIB


# The order of events


class FakeOrigin:
    """Counts nothing."""

    cacert = ""

    def __enter__(self) -> FakeOrigin:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def url_of(self, name: str) -> str:
        return name

    def reset(self) -> None:
        pass

    def counts(self) -> Counts:
        return Counts(0, 0, 0, 0.0)


def tool(label: str, **more: Any) -> ModuleType:
    return SimpleNamespace(label=label, **more)  # type: ignore[return-value]


def ran(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: dict[str, ModuleType],
    fail: str = "",
    restrict: bool = False,
    **more: Any,
) -> list[Run]:
    """What a suite of three repetitions runs, with nothing being executed; the tool `fail` fails."""

    def once(scenario: Scenario, tool: Any, run: Run, *_: Any) -> None:
        run.correct = tool.label != fail
        run.failure = "" if run.correct else "status 1"

    monkeypatch.setattr(measure, "run_once", once)
    scenario = Scenario("s", "S", "", 4 * MIB, 2 * MIB, lambda site: FakeOrigin(), **more)
    runs: list[Run] = []
    suite.Suite(tools, tmp_path, 3, seed=7, restrict=restrict).run([scenario], runs.append)
    return runs


def test_each_repetition_has_every_tool_once_after_a_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = ran(tmp_path, monkeypatch, {name: tool(name) for name in "abcdef"})
    assert len(runs) == 24
    rounds = [[r.tool for r in runs if r.repetition == n] for n in range(4)]
    assert all(sorted(order) == list("abcdef") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1, "the order is not random"
    assert [r.warmup for r in runs] == [True] * 6 + [False] * 18


def test_a_single_connection_is_run_once_on_a_throttled_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = {"one": tool("one", single=True), "many": tool("many")}
    runs = ran(tmp_path, monkeypatch, tools, ideal=lambda size, connections: size / MIB)
    assert [r.repetition for r in runs if r.tool == "one"] == [1]
    assert [(r.repetition, r.size, r.ideal) for r in runs if r.tool == "many"] == [
        (0, MIB, 1.0),
        *((n, 2 * MIB, 2.0) for n in (1, 2, 3)),
    ]


def test_a_quick_measurement_leaves_single_connections_out_where_the_server_is_throttled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = {"curl": tool("curl", single=True), "aria2c": tool("aria2c")}
    runs = ran(tmp_path, monkeypatch, tools, restrict=True, ideal=lambda size, connections: size / MIB)
    assert [r.unable for r in runs if r.tool == "curl"] == [suite.SINGLE]
    assert len([r for r in runs if r.tool == "aria2c"]) == 4


def test_variants_of_ours_run_only_where_they_show_something() -> None:
    plain, capped, wide = (all_scenarios()[name] for name in ("plain", "capped", "wide"))
    assert suite.makes_sense(plain, "fastidm_mmap") and not suite.makes_sense(capped, "fastidm_mmap")
    assert suite.makes_sense(capped, "fastidm") and suite.makes_sense(capped, "curl")
    assert suite.makes_sense(wide, "fastidm") and not suite.makes_sense(wide, "curl")


def test_the_baseline_opens_as_many_connections_as_are_of_use_and_are_granted(tmp_path: Path) -> None:
    asked: list[int] = []

    def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
        asked.append(connections)
        raise Unable("not today")

    files = [content.Content("a.bin", MIB, "")]
    plain = Scenario("s", "S", "", MIB, MIB, lambda site: FakeOrigin())
    throttled = replace(plain, ideal=lambda size, connections: 1.0)
    floor, peer = tool("floor", command=command, baseline=True), tool("peer", command=command)
    for scenario in (plain, throttled, replace(throttled, granted=4)):
        for one in (floor, peer):
            with pytest.raises(Unable):
                measure.command_for(one, scenario, FakeOrigin(), files, tmp_path)
    assert asked == [1, 16, 16, 16, 4, 16]


def test_a_tool_that_failed_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = ran(tmp_path, monkeypatch, {"good": tool("good"), "bad": tool("bad")}, fail="bad")
    assert [r.repetition for r in runs if r.tool == "bad"] == [0]
    assert [r.repetition for r in runs if r.tool == "good"] == [0, 1, 2, 3]


def test_a_server_that_is_missing_is_said_for_every_tool(tmp_path: Path) -> None:
    def missing(site: Site) -> Any:
        raise Missing("no compiler")

    runs: list[Run] = []
    scenario = Scenario("s", "S", "", MIB, MIB, missing)
    suite.Suite({"a": tool("a"), "b": tool("b")}, tmp_path, 3).run([scenario], runs.append)
    assert [(r.tool, r.unable) for r in runs] == [("a", "no compiler"), ("b", "no compiler")]


def test_what_a_tool_cannot_do_is_no_failure(tmp_path: Path) -> None:
    def command(*_: Any) -> list[str]:
        raise Unable("no HTTP/2")

    made = Run("s", "a", "A", 1, MIB)
    files = [content.Content("a.bin", MIB, "")]
    scenario = Scenario("s", "S", "", MIB, MIB, lambda site: FakeOrigin())
    measure.run_once(scenario, tool("a", command=command), made, FakeOrigin(), files, tmp_path / "o", tmp_path / "h", tmp_path)
    assert made.unable == "no HTTP/2" and not made.failure


def test_a_command_is_timed_and_its_memory_is_its_own(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    done = measure.execute(["/bin/sh", "-c", "echo $HOME; exit 3"], out, home, 20)
    assert done.status == 3 and done.words.strip() == str(home)
    assert 0 < done.wall < 20 and 0 < done.rss < 64 * MIB


def test_a_program_that_is_none_is_a_failure_of_that_tool_alone(tmp_path: Path) -> None:
    absent = tool("absent", command=lambda url, path, connections, extra: [str(tmp_path / "absent"), url])
    made = Run("s", "absent", "absent", 1, MIB)
    scenario = Scenario("s", "S", "", MIB, MIB, lambda site: FakeOrigin())
    files = [content.Content("a.bin", MIB, "")]
    measure.run_once(scenario, absent, made, FakeOrigin(), files, tmp_path / "out", tmp_path / "home", tmp_path)
    assert made.failure == "absent cannot be executed" and not made.correct


def test_a_command_line_is_shown_without_what_is_this_machines(tmp_path: Path) -> None:
    program, out, url = tmp_path / "bin" / "tool", tmp_path / "scratch" / "out", "http://127.0.0.1:81/a.bin"
    program.parent.mkdir()
    program.touch()
    words = [str(program), "-n", "2 3", f"--ca={tmp_path}/scratch/server/ca.pem", f"get {url} -o {out}/a", url]
    more = [url.replace("a.bin", name) for name in ("b.bin", "c.bin")]
    shown = "tool -n '2 3' --ca=server/ca.pem 'get http://HOST/a.bin -o DIR/a' http://HOST/a.bin"
    assert measure.shown_command(words, out, out.parent) == shown
    assert measure.shown_command([*words, *more], out, out.parent) == f"{shown} ..."


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    done = measure.execute(["/bin/sleep", "60"], tmp_path, tmp_path, 0.1)
    assert done.status is None and done.wall < 30


def test_a_command_is_killed_when_it_is_time_to(tmp_path: Path) -> None:
    done = measure.execute(["/bin/sleep", "60"], tmp_path, tmp_path, 30, kill_when=lambda: True)
    assert done.status == -9


def test_a_command_ends_when_the_suite_is_interrupted(tmp_path: Path) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # and the guard against stray processes finds none
        measure.execute(["/bin/sleep", "60"], tmp_path, tmp_path, 30, kill_when=interrupted)


# Content


def test_content_is_the_same_each_time_and_a_page_in_a_wrong_place_is_seen(tmp_path: Path) -> None:
    made = content.make(tmp_path, "a.bin", 3 * content.BLOCK + 5)
    data = (tmp_path / "a.bin").read_bytes()
    assert len(data) == made.size and content.differs(tmp_path, [made]) == ""
    assert content.make(tmp_path, "a.bin", made.size) == made
    page = content.PAGE
    pages = [data[at : at + page] for at in range(0, 2 * content.BLOCK, page)]
    assert len(set(pages)) == len(pages)
    moved = bytearray(data)
    moved[:page], moved[page : 2 * page] = data[page : 2 * page], data[:page]
    (tmp_path / "a.bin").write_bytes(moved)
    assert "wrong content" in content.differs(tmp_path, [made])
    (tmp_path / "a.bin").write_bytes(data[:-1])
    assert "bytes, not" in content.differs(tmp_path, [made])
    (tmp_path / "a.bin").unlink()
    assert "missing" in content.differs(tmp_path, [made])


# Report


def canned(path: Path) -> Path:
    """JSON lines as a measurement leaves them."""
    tools = {
        "fastidm": {"label": "fastidm", "version": "fastidm 9.9", "command": "fastidm URL"},
        "curl": {"label": "curl", "version": "curl 8.8", "command": "curl | cat"},
        "axel": {"label": "axel", "version": None, "command": ""},
    }
    meta = {"kind": "meta", "date": "2026-01-02", "mode": "quick", "revision": "abc", "machine": {"cores": "2"}, "tools": tools}
    lines.write(path, meta)
    chance = random.Random(1)
    for repetition in range(1, 4):
        for name, wall in (("fastidm", 1.0), ("curl", 2.0), ("floor", 0.5)):
            made = run("plain", name, wall + chance.random() / 10, sent=GIB, repetition=repetition)
            lines.write(path, made.record())
    lines.write(path, run("plain", "wget", 1.0, failure="wrong <content>", correct=False).record())
    lines.write(path, run("capped", "fastidm", 2.0, ideal=1.9, sent=GIB).record())
    lines.write(path, run("capped", "floor", 0.0, unable="it cannot", correct=False).record())
    return path


def test_a_run_survives_its_json_line(tmp_path: Path) -> None:
    made = run("plain", "curl", 1.5, details={"time_lost": 0.5}, first_request=0.1)
    path = tmp_path / "runs.jsonl"
    lines.write(path, made.record())
    assert lines.read(path) == ({}, [made])


def test_json_lines_have_stable_names() -> None:
    wanted = "kind scenario tool label repetition size warmup wall user system rss sent requests connections server_cpu"
    wanted += " first_request ideal correct failure unable details cpu sent_ratio"
    assert list(run("plain", "curl", 1.5).record()) == wanted.split()


def test_the_report_says_caveats_before_numbers_and_what_is_missing(tmp_path: Path) -> None:
    text = write.write(canned(tmp_path / "runs.jsonl")).read_text()
    assert 0 < text.index(CAVEATS[0]) < text.index("## Machine") < text.index("## Verdict") < text.index("## Scenarios")
    assert "Missing on this machine: axel." in text
    assert "fastidm 9.9" in text and r"`curl \| cat`" in text
    assert "failed: wrong <content>" in text and "Not run: FLOOR: it cannot." in text
    rows = [line for line in text.splitlines() if line.startswith("| FASTIDM | 3 |")]
    assert len(rows) == 1 and "× floor" in text and "× ideal" in text
    assert "| capped | wall of fastidm ≤ 1.08 × ideal | 1.05 | holds |" in text


def test_the_html_needs_no_other_file(tmp_path: Path) -> None:
    write.write(canned(tmp_path / "runs.jsonl"))
    text = (tmp_path / "report.html").read_text()
    assert "wrong &lt;content&gt;" in text and "wrong <content>" not in text
    assert "http:" not in text.replace("http://127", "") and "<script" not in text
    assert text.count("<img") == text.count('src="data:image/png;base64,')
    assert text.count("<img") == len(list(tmp_path.glob("*.png")))


# Two revisions


def test_only_what_is_beyond_the_noise_is_slower() -> None:
    quiet = [1.00, 1.001, 1.002, 1.003, 1.004]
    assert compare.compare_values("x", quiet, [v * 1.02 for v in quiet]).word == ""
    assert compare.compare_values("x", quiet, [v * 1.10 for v in quiet]).word == "SLOWER"
    assert compare.compare_values("x", quiet, [v * 0.90 for v in quiet]).word == "faster"
    loud = [0.5, 0.8, 1.0, 1.2, 1.5]
    assert compare.compare_values("x", loud, [v * 1.10 for v in loud]).word == ""


def test_scenarios_are_compared_where_both_were_run() -> None:
    runs = [run("plain", tool, wall) for tool, wall in (("base", 1.0), ("base", 1.0), ("head", 2.0), ("head", 2.0))]
    found = {change.name: change for change in compare.compare_runs([*runs, run("tls", "head", 1.0)])}
    assert list(found) == ["plain wall", "plain cpu", "plain rss"]
    assert found["plain wall"].share == 1.0 and found["plain wall"].word == "SLOWER"


def test_micro_benchmarks_are_compared_by_their_best_round() -> None:
    def told(**medians: float) -> dict[str, Any]:
        return {"benchmarks": [{"name": name, "stats": {"median": median}} for name, median in medians.items()]}

    base = [told(a=1.0, b=1.0), told(a=1.05, b=2.0)]
    head = [told(a=1.3, b=1.3, c=1.0), told(a=1.31, b=1.3)]
    assert [(change.name, change.word) for change in compare.compare_micro(base, head)] == [
        ("a", "SLOWER"),
        ("b", ""),
        ("c", "new"),
    ]
    assert [(change.name, change.word) for change in compare.compare_micro(head, base)][2] == ("c", "MISSING")


# The command


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--scenario", "plane"]) == 2
    assert "no such scenario: plane" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler for the baselines")
def test_a_real_measurement_verifies_every_download_and_the_disk_alone_downloads_nothing(tmp_path: Path) -> None:
    asked = ["--scenario", "plain", "--tool", "fastidm", "floor", "disk", "--size", str(3 * MIB), "--repeat", "1"]
    call = [sys.executable, "-m", "benchmarks", *asked, "--output", str(tmp_path)]
    subprocess.run(call, cwd=measure.ROOT, env={**os.environ, "CC": "cc"}, check=True, capture_output=True, timeout=120)
    [path] = tmp_path.glob("*/runs.jsonl")
    runs = {run.tool: run for run in lines.read(path)[1] if not run.warmup}
    assert set(runs) == {"fastidm", "floor", "disk"}
    assert all(run.correct and not run.failure and run.wall > 0 for run in runs.values())
    assert runs["disk"].requests == runs["disk"].sent == 0
    assert runs["fastidm"].sent > 3 * MIB and runs["floor"].connections == 1
    assert runs["floor"].details["command"].startswith("floor 127.0.0.1 ")


@pytest.mark.parametrize("words", [["--repeat", "0"], ["--size", "-5"], ["--page", "x.md"], ["--report", "absent.jsonl"]])
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert end.value.code == 2


def test_a_revision_that_git_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        compare.main(["no-such-revision"])
    assert end.value.code == 2 and "no revision no-such-revision" in capsys.readouterr().err


def test_a_page_joins_measurements_and_the_last_of_a_scenario_counts(tmp_path: Path) -> None:
    first, second = canned(tmp_path / "1.jsonl"), tmp_path / "2.jsonl"
    tools = {"curl": {"label": "curl", "version": None, "command": "", "asked": False}}
    lines.write(second, {"kind": "meta", "date": "2026-01-03", "mode": "full", "revision": "def", "tools": tools})
    lines.write(second, run("plain", "fastidm", 77.0).record())
    page = tmp_path / "benchmarks.md"
    assert command.main(["--report", str(first), str(second), "--page", str(page)]) == 0
    text = page.read_text()
    assert "2026-01-02, quick, fastidm abc: capped" in text
    assert "2026-01-03, full, fastidm def: plain" in text
    assert "77.00" in text
    assert "| wget |" not in text
    assert "curl 8.8" in text
    assert all((tmp_path / name).is_file() for name in re.findall(r"!\[\]\((.*?)\)", text))


def test_the_report_is_written_again_from_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = canned(tmp_path / "runs.jsonl")
    assert command.main(["--report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.md")
    assert all(json.loads(line) for line in path.read_text().splitlines())
