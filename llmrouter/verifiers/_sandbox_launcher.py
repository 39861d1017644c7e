"""Enter a sandbox and run one Python program in it; a script of its own, with nothing but the standard library.

Started as ``python -I -S _sandbox_launcher.py SPEC`` with a JSON object: ``program`` (source), ``python``, ``paths``
(what is shown of the file system, read only) and the numbers of `SandboxLimits`. The program gets this process's
standard input and output. Exit status: the program's, 128 + its signal, or `REFUSED` with the reason on standard error.

Three processes: the outer one gives the new user namespace its ids, the middle one builds the file system, the inner
one (process 1 of its namespace) gives up every privilege and becomes the program. When one ends, those below it do.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

REFUSED = 97
NOBODY = 65534

_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_NOATIME, _MS_NODIRATIME, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
_ST_RELATIME = 4096
_MNT_DETACH = 2
# Where the new root is mounted, in a mount namespace of its own; nothing that is shown lies there.
_PLACES = (Path("/sys"), Path("/mnt"), Path("/media"))
_DEVICES = ("null", "zero", "random", "urandom")

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 1, 24, 28, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SECUREBITS = 0b101111  # no root, no set-uid fix-up, locked; no keeping of capabilities
_CAPABILITY_VERSION = 0x20080522

_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000

# Machine -> (audit architecture, system calls that are refused, clone). Among them: sockets (namespaces do not hold
# all kinds of them), new processes, mounts, namespaces, tracing, kernel keys, io_uring, memory that no limit counts.
_ONLY_NEW = (428, 429, 430, 431, 432, 433, 434, 438, 442, 425, 426, 427, 435)
_CALLS: dict[str, tuple[int, tuple[int, ...], int]] = {
    "x86_64": (
        0xC000003E,
        (41, 57, 58, 272, 308, 165, 166, 155, 161, 101, 310, 311, 312, 321, 298, 323, 250, 248, 249, 246, 320, 175, 313,
         176, 169, 167, 168, 163, 103, 179, 303, 304, 135, 170, 171, 319, 29, 68, 240, *_ONLY_NEW),
        56,
    ),
    "aarch64": (
        0xC00000B7,
        (198, 97, 268, 40, 39, 41, 51, 117, 270, 271, 272, 280, 241, 282, 219, 217, 218, 104, 294, 105, 273, 106, 142,
         224, 225, 89, 116, 60, 264, 265, 92, 161, 162, 279, 194, 186, 180, *_ONLY_NEW),
        220,
    ),
}  # fmt: skip
_CLONE3 = 435
_X32_BIT = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _RefusedError(Exception):
    """The sandbox cannot be entered."""


def main() -> None:
    """Run the program of the specification in ``sys.argv[1]``."""
    spec = json.loads(sys.argv[1])
    try:
        machine = os.uname().machine
        if machine not in _CALLS:
            raise _RefusedError(f"no filter of system calls is known for {machine}")
        _outer(spec)
    except (_RefusedError, OSError) as error:
        _refuse(error)


def _outer(spec: dict[str, Any]) -> NoReturn:
    _die_with_parent()
    os.setsid()
    uid, gid = os.geteuid(), os.getegid()
    root = next((place for place in _PLACES if place.is_dir()), None)
    if root is None:
        raise _RefusedError(f"none of the folders {', '.join(map(str, _PLACES))} is there to build in")
    entered_read, entered_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(mapped_write)
            _middle(spec, root, entered_write, mapped_read)
        except BaseException as error:
            _refuse(error)
    os.close(entered_write)
    if os.read(entered_read, 1):
        _map_ids(child, uid, gid)
        os.write(mapped_write, b"1")
    os._exit(_wait(child))


def _map_ids(child: int, uid: int, gid: int) -> None:
    """Give the new user namespace its ids: nobody, and root where we are root and build as such."""
    place = Path(f"/proc/{child}")
    if uid == 0:
        try:
            (place / "uid_map").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1")
            (place / "gid_map").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1")
            return
        except OSError:  # root of a namespace that has no nobody
            if (place / "uid_map").read_text():
                raise
    (place / "setgroups").write_text("deny")
    (place / "gid_map").write_text(f"{NOBODY} {gid} 1")
    (place / "uid_map").write_text(f"{NOBODY} {uid} 1")


def _middle(spec: dict[str, Any], root: Path, entered: int, mapped: int) -> NoReturn:
    if _libc.unshare(_NEW_NAMESPACES) != 0:
        raise _failed("unshare")
    os.write(entered, b"1")
    if not os.read(mapped, 1):
        raise _RefusedError("the ids of the user namespace could not be set")
    _die_with_parent()
    # Nothing in here makes a further user namespace, in which it would be root again.
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    _build(spec, root)
    child = os.fork()
    if child == 0:
        try:
            _inner(spec, root)
        except BaseException as error:
            _refuse(error)
    os._exit(_wait(child))


def _build(spec: dict[str, Any], root: Path) -> None:
    """Build the file system below `root`: what is shown is read only, but for two small folders in memory."""
    _mount(None, Path("/"), flags=_MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV, data="size=1m,nr_inodes=512,mode=755")
    for text in spec["paths"]:
        _show(Path(text), root)
    for name in _DEVICES:
        _bind(Path("/dev") / name, root, flags=0)
    for name in ("job", "tmp"):
        place = root / name
        place.mkdir()
        options = f"size={spec['disk_bytes']},nr_inodes=256,mode=1777"
        _mount("tmpfs", place, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC, data=options)
    program = root / "job" / "main.py"
    program.write_text(spec["program"], encoding="utf-8")
    program.chmod(0o444)
    _mount(None, root, flags=_MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _show(source: Path, root: Path) -> None:
    if source.is_symlink():
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(source.readlink())
    elif source.exists():
        _bind(source, root, flags=_MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _bind(source: Path, root: Path, *, flags: int) -> None:
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(str(source), target, flags=_MS_BIND | _MS_REC)
    if flags:
        for place in (target, *_mounts_below(target)):
            _mount(None, place, flags=_MS_REMOUNT | _MS_BIND | flags | _kept_flags(place))


def _mounts_below(target: Path) -> list[Path]:
    """Return the mounts below one; making that one read only leaves them as they are."""
    places = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        text = line.split()[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
        if text.startswith(f"{target}/"):
            places.append(Path(text))
    return places


def _kept_flags(place: Path) -> int:
    """Return the flags of a mount that a user namespace may not take away."""
    has = os.statvfs(place).f_flag
    kept = has & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME | _MS_NODIRATIME)
    return kept | (_MS_RELATIME if has & _ST_RELATIME else 0)


def _inner(spec: dict[str, Any], root: Path) -> NoReturn:
    """Become the program: process 1 of the namespace, without any privilege."""
    os.setsid()
    os.chdir(root)
    if _libc.pivot_root(b".", b".") != 0:
        raise _failed("pivot_root")
    if _libc.umount2(b".", _MNT_DETACH) != 0:
        raise _failed("umount of the old root")
    os.chdir("/job")
    _libc.sethostname(b"sandbox", 7)
    _limit(spec)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        _prctl(_PR_SET_SECUREBITS, _SECUREBITS)
        _drop_bounding_set()
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        _prctl(_PR_SET_SECUREBITS, _SECUREBITS)
        _drop_bounding_set()
    _drop_capabilities()
    _die_with_parent(check=False)  # what changes the credentials clears it
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _filter_system_calls()
    _become(spec["python"])


def _become(python: str) -> NoReturn:
    null = os.open("/dev/null", os.O_WRONLY)
    kept = os.dup(2)  # closed by the exec: a failure can still be told, and the program says nothing in its place
    os.dup2(null, 2)
    os.close(null)
    _close_beyond(2, but=kept)
    try:
        os.execve(python, [python, "-I", "-S", "-B", "-u", "/job/main.py"], {})  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(kept, f"{python}: {error.strerror}".encode())
        os._exit(REFUSED)


def _close_beyond(last: int, *, but: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for number in range(last + 1, limit):
        if number != but:
            try:
                os.close(number)
            except OSError:
                continue


def _limit(spec: dict[str, Any]) -> None:
    cpu = spec["cpu_s"]
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, spec["memory_bytes"], spec["memory_bytes"]),
        (resource.RLIMIT_FSIZE, spec["disk_bytes"], spec["disk_bytes"]),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_NPROC, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _drop_bounding_set() -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if capability == 0:
        raise _failed("dropping capabilities")


def _drop_capabilities() -> None:
    header = struct.pack("II", _CAPABILITY_VERSION, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise _failed("capset")


def _filter_system_calls() -> None:
    """Refuse what `_CALLS` lists; threads stay possible, processes do not."""
    architecture, refused, clone = _CALLS[os.uname().machine]

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    load, equal, at_least, has_bits, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000
    number, arch, first_argument = 0, 4, 16
    steps = [step(load, arch), step(equal, architecture, 1, 0), step(end, kill), step(load, number)]
    steps += [step(at_least, _X32_BIT, 0, 1), step(end, refuse | _EPERM)]
    steps += [step(equal, _CLONE3, 0, 1), step(end, refuse | _ENOSYS)]  # then the C library uses clone
    for call in refused:
        if call != _CLONE3:
            steps += [step(equal, call, 0, 1), step(end, refuse | _EPERM)]
    steps += [step(equal, clone, 0, 3), step(load, first_argument), step(has_bits, _CLONE_THREAD, 1, 0)]
    steps += [step(end, refuse | _EPERM), step(end, allow)]
    code = ctypes.create_string_buffer(b"".join(steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(program)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer))


def _prctl(option: int, first: int = 0, second: int = 0) -> None:
    if _libc.prctl(option, first, second, 0, 0) != 0:
        raise _failed(f"prctl {option}")


def _die_with_parent(*, check: bool = True) -> None:
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if check and os.getppid() != parent:
        os._exit(REFUSED)


def _mount(source: str | None, target: Path, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    given = (None if source is None else os.fsencode(source), os.fsencode(target), kind.encode() or None)
    if _libc.mount(*given, flags, data.encode() or None) != 0:
        raise _failed(f"mount of {source or 'flags'} on {target}")


def _failed(what: str) -> _RefusedError:
    return _RefusedError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _refuse(error: BaseException) -> NoReturn:
    os.write(2, f"{error or type(error).__name__}"[:500].encode())
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
