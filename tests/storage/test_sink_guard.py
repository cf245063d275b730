"""What becomes of the sink, and of the program around it, when a page of the map is no longer there: real SIGBUS.

Each test is a small program of its own, so that a signal which nobody catches ends that program and not the tests. What is
under test is told by its exit code (negative: the signal that ended it) and by what it printed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.command import ROOT, Command
from tests.support.content import content
from tests.support.oddserver import File, Gate, OddServer

BUILT = importlib.util.find_spec("fastidm._hotpath") is not None
MIB = 1 << 20

PRELUDE = """
import ctypes, errno, faulthandler, mmap, os, resource, signal, sys, threading
from array import array

sys.path.insert(0, {root!r})
if {kind!r} == "c":
    from fastidm._hotpath import Sink
else:
    from fastidm.storage.sink import PureSink as Sink

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
SIZE, WINDOW, READY = 5 << 20, 512 << 10, 128 << 10
BLOCK = b"x" * (16 << 10)
MAP = 1


class Part:
    "A sparse part file, and a sink that maps it."

    def __init__(self, name="part", size=SIZE):
        self.fd = os.open(name, os.O_RDWR | os.O_CREAT)
        os.truncate(self.fd, size)
        self.row = array("q", [0, size, 0, ~0])
        self.sink = Sink(self.fd, self.row, size, [], mode=MAP)
        self.sink.arm(0, 0)

    def send(self, count):
        "Blocks of together `count` bytes, until one is not taken."
        while count > 0 and self.sink(BLOCK) is None:
            count -= len(BLOCK)
        self.sink.flush()
        return self

    def cut(self, size=0):
        os.truncate(self.fd, size)
        return self

    def told(self):
        sink = self.sink
        state = ["HOLD", "ARMED", "FULL", "FAILED", "CLOSED"][sink.state]
        return f"{{state}} {{'MAP' if sink.mode == MAP else 'PWRITE'}} {{errno.errorcode.get(sink.errno, 0)}} {{self.row[2]}}"


def caught():
    "A fault in a window, which must not be seen outside the sink."
    print(Part().send(1).cut().send(1).told(), flush=True)


def foreign():
    "An address that has nothing to do with a sink, and what makes a fault there."
    fd = os.open("foreign", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 4096)
    window = mmap.mmap(fd, 4096)
    os.truncate(fd, 0)
    return ctypes.addressof(ctypes.c_char.from_buffer(window)), lambda: window.__setitem__(0, 1)


class Action(ctypes.Structure):
    "struct sigaction."
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("rest", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
SA_SIGINFO, SA_NODEFER, SA_RESETHAND = 4, 0x40000000, -0x80000000
kept = []


def install(handler, flags=0, mask=()):
    "A handler in C; `handler(number, address of the fault)` is called in it."

    def c_handler(number, info, context):
        handler(number, ctypes.c_void_p.from_address(info + 16).value if flags & SA_SIGINFO else None)

    arguments = [ctypes.c_void_p, ctypes.c_void_p] if flags & SA_SIGINFO else []
    called = ctypes.CFUNCTYPE(None, ctypes.c_int, *arguments)(c_handler if arguments else lambda number: handler(number, None))
    kept.append(called)
    action = Action(ctypes.cast(called, ctypes.c_void_p), flags=flags)
    for number in mask:
        action.mask[0] |= 1 << number - 1
    assert libc.sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0


def handler():
    "What is called now when a SIGBUS comes; None: the default."
    action = Action()
    assert libc.sigaction(signal.SIGBUS, None, ctypes.byref(action)) == 0
    return action.handler


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


def no_populating():
    "From now on madvise answers MADV_POPULATE_READ and _WRITE like a kernel that does not know them, with EINVAL."
    number = {{"x86_64": 28, "aarch64": 233}}[os.uname().machine]
    load, equal, end = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0), (equal, 0, 4, number), (load, 0, 0, 32), (equal, 1, 0, 22), (equal, 0, 1, 23)]
    lines.append((end, 0, 0, 0x50000 | errno.EINVAL))
    lines.append((end, 0, 0, 0x7FFF0000))

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("lines", ctypes.POINTER(Instruction))]

    program = Program(len(lines), (Instruction * len(lines))(*lines))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program)) == 0


"""


class Ended:
    """How a program ended: `code`, and what it printed to `out` and `err`."""

    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = run.returncode, run.stdout.splitlines(), run.stderr

    def __repr__(self) -> str:
        return f"<exit code {self.code}, {self.out}, {self.err!r}>"


class Run:
    """Runs a program after PRELUDE in a folder of its own: `run('''...''')`."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder

    def __call__(self, program: str, *before: str) -> Ended:
        text = PRELUDE.format(root=str(ROOT), kind=self.kind) + textwrap.dedent(program)
        command = [*before, sys.executable, "-c", text]
        return Ended(subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Programs with the sink in C, which has the guard."""
    if not BUILT:
        pytest.skip("the C extension fastidm._hotpath is not built")
    return Run("c", tmp_path)


@pytest.fixture(params=["c", "pure"])
def run_both(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Programs with the sink in C, and the same with the one in Python."""
    if request.param == "c" and not BUILT:
        pytest.skip("the C extension fastidm._hotpath is not built")
    return Run(str(request.param), tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> tuple[str, ...]:
    """Words to put before a command: it runs on a disk of 5 MiB, a mount that nobody else sees."""
    alone = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = 'mount -t tmpfs -o size=5m none "$0" && cd "$0" && exec "$@"'
    words = (*alone, "sh", "-c", script, str(tmp_path))
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"may not mount a small disk here: {error.stderr.strip()}")
    return words


# ---- the sink ----


def test_a_file_that_is_cut_below_a_populated_page_fails_its_sink_alone(run_both: Run) -> None:
    ended = run_both("""
        cut, other = Part("cut"), Part("other")
        cut.send(1), other.send(1)
        print(cut.cut().send(1).told())
        maps = open("/proc/self/maps").read()
        print(cut.sink(BLOCK), cut.sink.flush(), os.fstat(cut.fd).st_size, os.path.realpath("cut") in maps)
        print(other.send(SIZE).told(), os.pread(other.fd, SIZE, 0) == b"x" * SIZE)
        print(Part("new").send(SIZE).told())
    """)
    told = ["FAILED MAP EIO 16384", "0 False 0 False", "FULL MAP 0 5242880 True", "FULL MAP 0 5242880"]
    assert (ended.code, ended.out, ended.err) == (0, told, "")


def test_a_disk_that_is_full_below_a_populated_page_is_no_space(run_both: Run, small_disk: tuple[str, ...]) -> None:
    ended = run_both(
        """
        part = Part().send(1).cut().cut(SIZE)
        with open("other", "wb") as other:
            try:
                while True:
                    os.write(other.fileno(), BLOCK)
            except OSError as error:
                print(errno.errorcode[error.errno])
        print(part.send(1).told())
        os.unlink("other")
        print(Part("new", 1 << 20).send(SIZE).told())
        """,
        *small_disk,
    )
    told = ["ENOSPC", "FAILED MAP ENOSPC 16384", "FULL MAP 0 1048576"]
    assert (ended.code, ended.out, ended.err) == (0, told, "")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the number of the system call is not known here")
def test_where_the_kernel_cannot_populate_a_full_disk_is_still_no_signal(run_both: Run, small_disk: tuple[str, ...]) -> None:
    """The map of a sparse file that is longer than the disk: the C sink runs into it, the one in Python does not map."""
    ended = run_both(
        """
        no_populating()
        part = Part(size=8 << 20).send(8 << 20)
        print(part.told().rpartition(" ")[0])
        position = part.row[2]
        print(position > 4 << 20, os.pread(part.fd, position, 0) == b"x" * position)
        """,
        *small_disk,
    )
    mode = "MAP" if run_both.kind == "c" else "PWRITE"
    assert (ended.code, ended.out, ended.err) == (0, [f"FAILED {mode} ENOSPC", "True True"], "")


def test_any_number_of_faults_can_be_caught_and_leave_no_signal_blocked(run: Run) -> None:
    ended = run("""
        faulthandler.enable()  # gives the thread a stack for signals
        for _ in range(100):
            part = Part().send(1).cut().send(1)
            assert part.told() == "FAILED MAP EIO 16384", part.told()
            os.close(part.fd)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    """)
    assert (ended.code, ended.out, ended.err) == (0, ["set()"], "")


def test_each_thread_lands_in_its_own_sink(run: Run) -> None:
    ended = run("""
        sys.setswitchinterval(1e-6)
        told = {}
        ready = threading.Barrier(8)

        def fill(number):
            part = Part(str(number)).send(1)
            ready.wait()
            if number % 2:
                part.cut()
            told[number] = part.send(SIZE).told()

        threads = [threading.Thread(target=fill, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(told.items()) == [(n, "FAILED MAP EIO 16384" if n % 2 else "FULL MAP 0 5242880") for n in range(8)])
    """)
    assert (ended.code, ended.out, ended.err) == (0, ["True"], "")


def test_a_thread_that_blocks_the_signal_does_not_map(run: Run) -> None:
    """A fault while SIGBUS is blocked ends the process, whatever handler there is."""
    ended = run("""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])
        print(Part().send(1).cut().send(1).told())
    """)
    assert (ended.code, ended.out, ended.err) == (0, ["ARMED PWRITE 0 32768"], "")


# ---- the program around it ----


def test_a_program_that_maps_nothing_keeps_its_handler(run: Run) -> None:
    ended = run("""
        part = Part()
        part.sink.mode = 0
        part.send(SIZE)
        print(part.told(), handler())
        Part("mapped").send(1)
        print(handler() is not None)
    """)
    assert (ended.code, ended.out, ended.err) == (0, ["FULL PWRITE 0 5242880 None", "True"], "")


CAUGHT = "FAILED MAP EIO 16384"


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGBUS, signal.SIG_IGN)"], ids=["default", "ignored"])
def test_a_fault_elsewhere_ends_the_process_as_it_always_did(run: Run, before: str) -> None:
    ended = run(f"{before}\ncaught()\nforeign()[1]()")
    assert (ended.code, ended.out, ended.err) == (-signal.SIGBUS, [CAUGHT], "")


def test_a_fault_at_the_block_that_is_copied_is_not_taken_for_one_of_the_file(run: Run) -> None:
    ended = run("""
        caught()
        fd = os.open("source", os.O_RDWR | os.O_CREAT)
        os.truncate(fd, 4096)
        source = mmap.mmap(fd, 4096)
        os.truncate(fd, 0)
        Part().sink(source)
    """)
    assert (ended.code, ended.out, ended.err) == (-signal.SIGBUS, [CAUGHT], "")


def test_a_fault_in_a_window_that_nobody_is_writing_to_is_not_caught(run: Run) -> None:
    ended = run("""
        part = Part().send(1).cut()
        line = next(line for line in open("/proc/self/maps") if line.endswith(os.path.realpath("part") + "\\n"))
        ctypes.memset(int(line.partition("-")[0], 16), 0, 1)
    """)
    assert (ended.code, ended.out, ended.err) == (-signal.SIGBUS, [], "")


@pytest.mark.parametrize(
    "order",
    [
        "faulthandler.enable(); caught()",
        "caught(); faulthandler.enable()",
        "caught(); faulthandler.enable(); Part().send(SIZE)",
    ],
    ids=["before", "after", "between two sinks"],
)
def test_faulthandler_tells_of_a_fault_elsewhere_once_and_the_process_ends(run: Run, order: str) -> None:
    ended = run(f"{order}; foreign()[1]()")
    assert (ended.code, ended.out) == (-signal.SIGBUS, [CAUGHT])
    assert ended.err.count("Fatal Python error: Bus error") == 1
    assert ended.err.count("Current thread") == 1


def test_faulthandler_that_is_disabled_leaves_the_guard_to_be_installed_anew(run: Run) -> None:
    ended = run("""
        faulthandler.enable()
        caught()
        faulthandler.disable()
        print(handler())
        caught()
        foreign()[1]()
    """)
    assert (ended.code, ended.out, ended.err) == (-signal.SIGBUS, [CAUGHT, "None", CAUGHT], "")


def test_over_a_handler_that_came_later_nothing_is_mapped(run: Run) -> None:
    """It may have saved ours and call it; if ours were put on top and called it in turn, that would never end."""
    ended = run("""
        caught()
        part = Part("begun").send(1)
        faulthandler.enable()
        top = handler()
        print(part.send(WINDOW - len(BLOCK)).told(), part.send(SIZE).told())
        print(Part().send(1).cut().send(1).told(), handler() == top)
        faulthandler.disable()
        caught()
    """)
    told = [CAUGHT, "ARMED MAP 0 524288 FULL PWRITE 0 5242880", "ARMED PWRITE 0 32768 True", CAUGHT]
    assert (ended.code, ended.out, ended.err) == (0, told, "")


@pytest.mark.parametrize(("before", "code"), [("SIG_IGN", 0), ("SIG_DFL", -signal.SIGBUS)])
def test_a_signal_that_somebody_sent_is_ignored_or_ends_the_process_as_before(run: Run, before: str, code: int) -> None:
    ended = run(f"""
        signal.signal(signal.SIGBUS, signal.{before})
        caught()
        os.kill(os.getpid(), signal.SIGBUS)
        caught()
    """)
    assert (ended.code, ended.out, ended.err) == (code, [CAUGHT] * (1 if code else 2), "")


def test_a_handler_in_python_gets_what_was_sent(run: Run) -> None:
    ended = run("""
        signal.signal(signal.SIGBUS, lambda number, frame: print("got", number == signal.SIGBUS))
        for _ in range(2):
            caught()
            os.kill(os.getpid(), signal.SIGBUS)
    """)
    assert (ended.code, ended.out, ended.err) == (0, [CAUGHT, "got True"] * 2, "")


@pytest.mark.parametrize("flags", ["0", "SA_SIGINFO", "SA_NODEFER", "SA_SIGINFO | SA_NODEFER"])
def test_a_handler_in_c_gets_a_fault_elsewhere_with_its_address_and_the_mask_that_it_asked_for(run: Run, flags: str) -> None:
    ended = run(f"""
        address, fault = foreign()

        def end(number, at):
            blocked = sorted(number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
            print(number == signal.SIGBUS, at == (address if ({flags}) & SA_SIGINFO else None), blocked, flush=True)
            os._exit(3)

        install(end, {flags}, [signal.SIGUSR1])
        caught()
        fault()
    """)
    blocked = ["SIGUSR1"] if "NODEFER" in flags else ["SIGBUS", "SIGUSR1"]
    assert (ended.code, ended.out, ended.err) == (3, [CAUGHT, f"True True {blocked}"], "")


def test_a_handler_in_c_that_wants_one_signal_gets_one(run: Run) -> None:
    ended = run("""
        install(lambda number, at: print("once", flush=True), SA_RESETHAND)
        caught()
        foreign()[1]()
    """)
    assert (ended.code, ended.out, ended.err) == (-signal.SIGBUS, [CAUGHT, "once"], "")


# ---- the command ----


@pytest.mark.usefixtures("pure_and_c")
def test_the_command_ends_with_an_io_error_when_its_part_file_is_cut_under_the_map(tmp_path: Path) -> None:
    data = content(4 * MIB)
    gate = Gate(File(data), 64 << 10)
    arguments = ("--json", "--io", "mmap", "--conn", 1)
    with OddServer(gate) as server, Command(*arguments, f"{server.url}/a.bin", cwd=tmp_path) as command:
        command.wait_for_received(64 << 10)
        os.truncate(tmp_path / "a.bin.part", 0)
        gate.open()
        outcome = command.finish()
    assert outcome.code == 10, outcome
    assert outcome.complaint
    assert not (tmp_path / "a.bin").exists()
