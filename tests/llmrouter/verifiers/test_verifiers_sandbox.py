"""Nothing gets out of the sandbox, and it ends whatever happens in it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llmrouter.exceptions import ConfigError, SandboxError
from llmrouter.verifiers import SandboxLimits, SandboxResult, _sandbox, run_in_sandbox, sandbox_problem

pytestmark = pytest.mark.skipif(bool(sandbox_problem()), reason=f"no sandbox here: {sandbox_problem()[:200]}")

ROOMY = SandboxLimits(wall_s=30, cpu_s=10)


def tried(source: str, *, limits: SandboxLimits = ROOMY) -> str:
    """Return what became of an attempt: ``done ...`` or the exception's name."""
    program = (
        "def attempt():\n" + textwrap.indent(textwrap.dedent(source).strip(), "    ") + "\n"
        "try:\n    told = f'done {attempt()}'\nexcept BaseException as error:\n    told = type(error).__name__\n"
        "import os\nos.write(1, told.encode())\n"
    )
    result = run_in_sandbox(program, limits=limits)
    assert result.ending == "exit", result
    return result.output.decode()


def test_a_program_runs_and_reads_its_input() -> None:
    result = run_in_sandbox("import sys, math\nprint(sys.stdin.read()[::-1], math.pi)", b"abc", limits=ROOMY)
    assert (result.ending, result.code) == ("exit", 0)
    assert result.output == b"cba 3.141592653589793\n"


def test_exit_status_and_standard_error() -> None:
    result = run_in_sandbox("import sys, os\nprint('secret', file=sys.stderr)\nos._exit(7)", limits=ROOMY)
    assert (result.ending, result.code, result.output) == ("exit", 7, b"")


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK", "AF_PACKET"])
def test_there_is_no_network(family: str) -> None:
    assert tried(f"import socket\nreturn socket.socket(getattr(socket, '{family}'))") == "PermissionError"


def test_a_server_of_this_machine_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        assert tried(f"import socket\nreturn socket.create_connection({place!r}, 1)") != "done"
        server.settimeout(0.3)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "source",
    [
        "import os\nreturn os.fork()",
        "import os\nreturn os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess\nreturn subprocess.run(['/bin/true'])",
        "import subprocess\nreturn subprocess.run(['/bin/true'], close_fds=False)",
        "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()",
    ],
)
def test_no_process_can_be_started(source: str) -> None:
    assert tried(source) in ("PermissionError", "OSError", "FileNotFoundError")


def test_threads_are_allowed_and_limited() -> None:
    source = """
        import threading, time
        started = 0
        try:
            for _ in range(2000):
                threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        return started
    """
    told = tried(source)
    assert told.startswith("done")
    assert 1 <= int(told.split()[1]) < 200


def test_memory_is_limited() -> None:
    assert tried("return len(bytearray(600 * 1024 * 1024))") == "MemoryError"
    grows = run_in_sandbox("kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))", limits=ROOMY)
    assert (grows.ending, grows.code) == ("exit", 1)


def test_memory_that_no_address_space_counts_is_refused() -> None:
    assert tried("import os\nreturn os.memfd_create('x')") == "PermissionError"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/sys", "/home"]
)
def test_files_of_this_machine_are_not_there(path: str) -> None:
    assert tried(f"import os\nreturn os.stat({path!r})") == "FileNotFoundError"


def test_the_files_of_this_user_and_project_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for path in (tmp_path / "secret", Path.home() / ".bashrc", Path(__file__), Path.cwd()):
        if not str(path).startswith((sys.base_prefix, "/usr")):
            assert tried(f"import os\nreturn os.stat({str(path)!r})") == "FileNotFoundError"


def test_root_shows_nothing_but_the_interpreter() -> None:
    shown = json.loads(tried("import os, json\nreturn json.dumps(sorted(os.listdir('/')))").removeprefix("done "))
    above = Path(sys.base_prefix).parts[1]
    assert set(shown) <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "tmp", "usr", "job", above}
    if above not in ("usr", "bin", "lib"):
        inside = json.loads(tried(f"import os, json\nreturn json.dumps(os.listdir('/{above}'))").removeprefix("done "))
        assert inside == [Path(sys.base_prefix).parts[2]]


@pytest.mark.parametrize("place", ["/x", "/usr/x", "/lib/x", "/dev/x", "/etc/x", f"{sys.base_prefix}/x"])
def test_nothing_can_be_written_outside(place: str) -> None:
    assert tried(f"return open({place!r}, 'w').write('x')") in ("OSError", "PermissionError", "FileNotFoundError")
    assert not Path(place).exists()


def test_its_own_folders_are_small_and_gone_afterwards() -> None:
    assert tried("return open('/job/x', 'w').write('abc')") == "done 3"
    assert tried("return open('/tmp/x', 'wb').write(bytes(64 << 20))") == "OSError"
    assert tried("import os\nreturn os.path.exists('/job/x')") == "done False"
    assert not Path("/job/x").exists()


def test_there_is_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    told = tried("import os\nreturn dict(os.environ)")
    assert "secret" not in told
    assert set(json.loads(told.removeprefix("done ").replace("'", '"'))) <= {"LC_CTYPE"}


def test_no_other_process_can_be_seen_or_killed() -> None:
    parent = os.getpid()
    assert tried(f"import os\nreturn os.kill({parent}, 9)") == "ProcessLookupError"
    assert tried("import os\nreturn os.kill(-1, 9)") == "ProcessLookupError"
    assert tried("import os\nreturn os.getppid()") == "done 0"


def test_it_is_nobody_without_a_way_back() -> None:
    assert tried("import os\nreturn os.getuid(), os.getgid(), os.getgroups()").startswith("done (65534, 65534")
    assert tried("import os\nreturn os.setuid(0)") == "PermissionError"
    assert tried("import os\nreturn os.chroot('/tmp')") == "PermissionError"
    calls = {
        "unshare(0x10000000)": -1,
        "mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)": -1,
        "umount2(b'/usr', 2)": -1,
        "ptrace(0, 0, 0, 0)": -1,
        "syscall(435, 0, 0)": -1,
    }
    for call, expected in calls.items():
        assert tried(f"import ctypes\nreturn ctypes.CDLL(None).{call}") == f"done {expected}"


def test_descriptors_of_this_process_are_closed(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        source = """
            import os
            def is_open(number):
                try:
                    os.fstat(number)
                except OSError:
                    return False
                return True
            return [number for number in range(64) if is_open(number)]
        """
        assert tried(source) == "done [0, 1, 2]"


@pytest.mark.parametrize(
    ("program", "ending"),
    [
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"),
        ("import os\nos.close(1); os.close(0)\nwhile True: pass", "timeout"),
        ("import signal, time\nsignal.signal(15, lambda *_: None)\ntime.sleep(60)", "timeout"),
        ("while True: print('x' * 1000)", "output"),
        ("import os\nwhile True: os.write(1, b'y' * 65536)", "output"),
    ],
)
def test_it_ends_in_time(program: str, ending: str) -> None:
    before = time.monotonic()
    result = run_in_sandbox(program, limits=SandboxLimits(wall_s=3, cpu_s=10))
    assert result.ending == ending
    assert time.monotonic() - before < 10
    assert len(result.output) <= SandboxLimits().output_bytes


def test_processor_time_is_limited() -> None:
    result = run_in_sandbox("while True: pass", limits=SandboxLimits(wall_s=60, cpu_s=1))
    assert (result.ending, result.code) == ("signal", 9)


def test_nothing_is_left_when_its_caller_is_killed(tmp_path: Path) -> None:
    mark = f"llmrouter-mark-{os.getpid()}"
    script = (
        "from llmrouter.verifiers import run_in_sandbox, SandboxLimits\n"
        f"print('up', flush=True)\nrun_in_sandbox('import time\\ntime.sleep(600)  # {mark}', "
        "limits=SandboxLimits(wall_s=600))\n"
    )
    root = Path(__file__).parents[3]
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
    assert caller.stdout is not None
    caller.stdout.readline()
    deadline = time.monotonic() + 20
    while len(_processes_with(mark)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    inside = {pid for pid in _processes_with(mark) if pid != caller.pid}
    assert inside, "the launcher never came up"
    caller.kill()
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and _lives(pid) for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in inside if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _processes_with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ProcessLookupError):
                continue
    return found


def test_without_namespaces_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "_SHOWN", ("/nowhere",))
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    with pytest.raises(SandboxError, match="no sandbox can be entered here"):
        run_in_sandbox("print(1)", limits=ROOMY)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="no sandbox on darwin"):
        run_in_sandbox("print(1)")


@pytest.mark.parametrize("limits", [{"wall_s": 0}, {"cpu_s": -1}, {"memory_bytes": True}, {"wall_s": float("inf")}])
def test_limits_are_checked(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        SandboxLimits(**limits)  # type: ignore[arg-type]


def test_too_much_input_is_refused() -> None:
    with pytest.raises(SandboxError, match="larger than the sandbox takes"):
        run_in_sandbox("print(1)", bytes(5 << 20))


def test_a_result_says_how_long_it_took() -> None:
    result = run_in_sandbox("import time\ntime.sleep(0.2)", limits=ROOMY)
    assert isinstance(result, SandboxResult)
    assert 0.2 <= result.seconds < 30


def test_too_large_a_program_is_refused() -> None:
    with pytest.raises(SandboxError, match="larger than the sandbox takes"):
        run_in_sandbox("#" * (70 * 1024))
