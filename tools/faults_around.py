"""Injections into what is around a run: disks, folders, names, environments, terminals."""

import contextlib
import fcntl
import os
import pty
import resource
import shutil
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np

from tools.injecting import STAGES, UNKNOWN, Bench, Ended, Found, Injections, mounted, right, told

# 5: places


def full_disk(bench: Bench) -> Found:
    """Each stage on a disk with no room, and with less than it needs; then with room."""
    for stage in STAGES:
        own = "report" if stage == "memorisation" else stage
        for kib in (0, 24, 96):
            disk = bench.folder / "disk"
            with mounted(disk, 1 << 16) as may:
                name = f"{stage} with {kib} KiB left"
                if not may:
                    yield name, None
                    continue
                workdir = bench.new([stage], disk / "run")
                used = int(subprocess.run(["du", "-sk", disk], capture_output=True, check=True).stdout.split()[0])
                resize = ["mount", "-o", f"remount,size={used + kib}k", str(disk)]
                subprocess.run(resize, check=True)
                ended = bench.run(workdir, f"--stages={own}")
                fault = "" if ended.code == 0 and not right(bench, workdir, ended) else told(ended, 1, 2)
                fault = fault or right(bench, workdir)
                subprocess.run(["mount", "-o", f"remount,size={1 << 16}k", str(disk)], check=True)
                yield name, fault or right(bench, workdir, bench.run(workdir, f"--stages={own}"))


def beside_the_store(bench: Bench) -> Found:
    """No room for what is not in the store: compiled programs, event files, the report of --compare; and compiled
    programs that are damaged."""
    for what in ("compiled programs", "event files", "the report of --compare"):
        disk = bench.folder / "disk"
        with mounted(disk, 16) as may:
            if not may:
                yield f"no room for {what}", None
                continue
            (disk / "filled").write_bytes(bytes(8 << 10))
            workdir, ended = bench.new(["base"]), Ended(0, "", "")
            if what == "compiled programs":
                ended = bench.run(workdir, "--stages=base", env={"JAX_COMPILATION_CACHE_DIR": str(disk)})
            elif what == "event files":
                (workdir / "tensorboard").symlink_to(disk)
                ended = bench.run(workdir, "--stages=base", "--tensorboard")
            else:
                words = [f"--compare={bench.reference},{bench.reference}", f"--workdir={disk / 'compared'}"]
                ended = bench.alone(*words)
            fault = "" if ended.code == 0 and not right(bench, workdir, ended) else told(ended, 1, 2)
            yield f"no room for {what}", fault or right(bench, workdir)
    cache = shutil.copytree(bench.environment["JAX_COMPILATION_CACHE_DIR"], bench.folder / "damaged")
    for file in (path for path in cache.rglob("*") if path.is_file() and path.stat().st_size):
        content = bytearray(file.read_bytes())
        content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
        file.write_bytes(content)
    workdir = bench.new(["base", "collect"])
    ended = bench.run(workdir, "--stages=base,collect", env={"JAX_COMPILATION_CACHE_DIR": str(cache)})
    yield "damaged compiled programs", right(bench, workdir, ended)


def file_size(bench: Bench) -> Found:
    """A limit on files, as a quota gives: EFBIG in the middle of a write."""
    for kib in (1, 8, 64):

        def limit(kib: int = kib) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kib, 1024 * kib))

        workdir = bench.new(["base", "evaluate", "report"])
        stages = "--stages=base,evaluate,report"
        ended = bench.run(workdir, stages, preexec_fn=limit)
        fault = "" if ended.code == 0 and not right(bench, workdir, ended) else told(ended, 1)
        yield f"files of {kib} KiB at most", fault or right(bench, workdir, bench.run(workdir, stages))


def few_handles(bench: Bench) -> Found:
    """Fewer open files than a run needs."""
    for count in (24, 48):

        def limit(count: int = count) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

        workdir = bench.new(["base"])
        ended = bench.run(workdir, "--stages=base", preexec_fn=limit)
        fault = "" if ended.code == 0 and not right(bench, workdir, ended) else told(ended, 1, 2)
        yield f"{count} open files at most", fault or right(bench, workdir, bench.run(workdir, "--stages=base"))


def read_only(bench: Bench) -> Found:
    """Folders without write permission, for a user who is no superuser: the work directory, the store, a partial."""
    if not shutil.which("unshare") or subprocess.run([*UNKNOWN, "true"], check=False).returncode:
        yield "read-only folders", None
        return
    for place in ("", "store", "store/.partial"):
        workdir = bench.new(["base"])
        if place == "store/.partial":
            name = next(path.name for path in bench.reference.glob("store/base-*"))
            place = f"store/.{name}.partial"
            (workdir / place).mkdir()
        (workdir / place).chmod(0o500)
        ended = bench.run(workdir, "--stages=base", prefix=UNKNOWN)
        (workdir / place).chmod(0o700)
        name = f"read-only {place or 'work directory'}"
        yield name, told(ended, 1, 2) or right(bench, workdir, bench.run(workdir, "--stages=base"))


def no_links(bench: Bench) -> Found:
    """A file system without symbolic links: every stage is there under its name all the same."""
    before = "def none(*_, **__): raise PermissionError(1, 'Operation not permitted')\nos.symlink = none"
    workdir = bench.new()
    for stage in STAGES:
        (workdir / stage).unlink()
    for words in (["--stages=base"], [f"--stages={','.join(s for s in STAGES if s != 'memorisation')}"]):
        ended = bench.run(workdir, *words, before=before)
        names = STAGES if "report" in words[0] else ["base"]
        missing = [name for name in names if not (workdir / name / "manifest.json").is_file()]
        yield "no links", right(bench, workdir, ended) or (f"no {', '.join(missing)}" if missing else "")


def own_files(bench: Bench) -> Found:
    """A file, a folder and a link of a user's own where a link would go: refused before anything is computed."""
    for stage in ("base", "report", "export"):
        for kind in ("file", "folder", "link"):
            workdir = bench.new(["base"])
            (workdir / stage).unlink()
            mine = workdir / stage
            if kind == "file":
                mine.write_text("mine")
            elif kind == "folder":
                mine.mkdir()
                (mine / "notes").write_text("mine")
            else:
                mine.symlink_to("/etc")
            kept = os.lstat(mine)
            ended = bench.run(workdir, "--stages=base,report,export")
            same = os.path.lexists(mine) and os.path.samestat(os.lstat(mine), kept)
            fault = told(ended, 2) or ("" if same else "replaced") or right(bench, workdir)
            yield f"{kind} named {stage}", fault or ("computed" if [*workdir.glob("store/base-*")] else "")


def odd_names(bench: Bench) -> Found:
    """Names that no file can have, that lead in a circle, or that are no text; and odd ones that do."""
    loop = bench.folder / "loop"
    loop.symlink_to("loop")
    (bench.folder / "file").touch()
    refused = {
        "300 letters": bench.folder / ("a" * 300),
        "4000 letters": bench.folder / "/".join(["b" * 200] * 20),
        "links in a circle": loop / "run",
        "below a file": bench.folder / "file" / "run",
        "a file": bench.folder / "file",
        "no UTF-8": os.fsdecode(os.fsencode(bench.folder) + b"/caf\xe9"),
    }
    for name, workdir in refused.items():
        yield name, told(bench.run(workdir, "--stages=base"), 2)
    flags = ("--config", "--init", "--config.data.name", "--compare", "--verify", "--evaluate")
    for flag in flags:
        for name, value in (
            ("300 letters", "a" * 300),
            ("links in a circle", str(loop)),
            ("no UTF-8", os.fsdecode(b"\xe9")),
        ):
            value = f"npz:{value}" if flag == "--config.data.name" else value
            alone = flag in ("--compare", "--verify", "--evaluate")
            word = f"{flag}={value}"
            ended = bench.alone(word) if alone else bench.run(bench.folder / "none", "--stages=base", word)
            yield f"{name} for {flag}", told(ended, 2)
    for name in ("with spaces", "-dash", "ünïcödé 漢字 \U0001f600", "quo'te\"", "new\nline", "100%{}"):
        workdir = bench.new(["base"], bench.folder / name)
        yield f"named {name!r}", right(bench, workdir, bench.run(workdir, "--stages=base"))


# 6: environments


def environments(bench: Bench) -> Found:
    """Odd environments, in which a run ends right; and one in which it says why not."""
    nowhere, rc = "/proc/nowhere", bench.folder / "rc"
    rc.mkdir()
    (rc / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\nfont.family: Nothing\nno.such.key: 3\n")
    c_locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    caches = ["JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"]
    cases: dict[str, dict[str, Any]] = {
        "HOME unset": {"unset": ["HOME", *caches]},
        "HOME that is not there": {"env": {"HOME": nowhere}, "unset": caches},
        "unknown user without HOME": {"prefix": UNKNOWN, "unset": ["HOME", "USER", "LOGNAME", *caches]},
        "no writable cache": {"env": dict.fromkeys([*caches, "HOME"], nowhere)},
        "C locale": {"env": c_locale},
        "ASCII output": {"env": {"PYTHONIOENCODING": "ascii"}},
        "matplotlibrc with usetex, another backend and mistakes": {"env": {"MATPLOTLIBRC": str(rc)}},
        "MPLBACKEND=TkAgg": {"env": {"MPLBACKEND": "TkAgg"}},
        "no terminal": {"start_new_session": True, "env": {"TERM": ""}},
        "TZ that is none": {"env": {"TZ": "No/Where"}},
        "TZ=Asia/Kathmandu": {"env": {"TZ": "Asia/Kathmandu"}},
        "COLUMNS=1": {"env": {"COLUMNS": "1", "LINES": "1"}},
        "COLUMNS that is no number": {"env": {"COLUMNS": "many"}},
        "umask 077": {"umask": 0o077},
        "python -W error": {"env": {"PYTHONWARNINGS": "error::UserWarning"}},
    }
    for name, how in cases.items():
        draws = any(word in name for word in ("HOME", "cache", "C locale", "matplotlib", "MPL", "error"))
        workdir = bench.new(["base", "report"] if draws else ["base"])
        yield name, right(bench, workdir, bench.run(workdir, f"--stages=base{',report' * draws}", **how))
    refused: dict[str, dict[str, Any]] = {
        "JAX_PLATFORMS=cuda without CUDA": {"env": {"JAX_PLATFORMS": "cuda"}},
        "JAX_PLATFORMS=nonsense": {"env": {"JAX_PLATFORMS": "nonsense"}},
        "JAX_ENABLE_X64=maybe": {"env": {"JAX_ENABLE_X64": "maybe"}},
        "JAX_DEFAULT_PRNG_IMPL=none": {"env": {"JAX_DEFAULT_PRNG_IMPL": "none"}},
        "MPLBACKEND=none": {"env": {"MPLBACKEND": "none"}},
        "umask 777": {"umask": 0o777, "prefix": UNKNOWN},
    }
    for name, how in refused.items():
        workdir = bench.new(["base", "report"])
        yield (
            name,
            told(bench.run(workdir, "--stages=base,report", **how), 1, 2)
            or right(bench, workdir, bench.run(workdir, "--stages=base,report")),
        )


def packages_read_only(bench: Bench) -> Found:
    """The interpreter's packages on a file system that cannot be written."""
    packages = Path(np.__file__).parents[1]
    script = f'mount --bind {packages} {packages} && mount -o remount,ro,bind {packages} && exec "$@"'
    prefix = ["unshare", "--mount", "bash", "-c", script, "-"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        yield "read-only packages", None
        return
    workdir = bench.new(["base", "report"])
    yield "read-only packages", right(bench, workdir, bench.run(workdir, "--stages=base,report", prefix=prefix))


def gone_directory(bench: Bench) -> Found:
    """The current directory is deleted before the run starts."""
    gone = bench.folder / "gone"
    gone.mkdir()
    workdir = bench.new(["base"])
    ended = bench.run(workdir, "--stages=base", cwd=gone, preexec_fn=gone.rmdir)
    yield "current directory deleted", told(ended, 2) or right(bench, workdir)


def streams(bench: Bench) -> Found:
    """Standard streams that are closed, full, or read no further; a terminal that can show next to nothing."""
    words = "--stages=base"
    for closed in ((1,), (2,), (0, 1, 2)):

        def close(closed: tuple[int, ...] = closed) -> None:
            for number in closed:
                os.close(number)

        workdir = bench.new(["base"])
        ended = bench.run(workdir, words, preexec_fn=close)
        yield f"closed {closed}", right(bench, workdir, ended)
    workdir = bench.new(["base"])
    with open("/dev/full", "wb") as full:
        ended = bench.run(workdir, words, stdout=full)
    yield "stdout on a full device", told(ended, 0) or right(bench, workdir)
    for number in (1, 2):
        workdir = bench.new(["base"])
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            broken: dict[str, Any] = {"stdout" if number == 1 else "stderr": pipe}
            ended = bench.run(workdir, words, **broken)
        yield f"nobody reads {number}", right(bench, workdir, ended)
    for help_ in ("--help", "--print_config"):
        line = f"{sys.executable} {bench.tree}/launch.py --config=digits {help_} | head -1"
        done = subprocess.run(line, shell=True, env=bench.environment, capture_output=True, text=True, check=False)
        yield f"{help_} | head -1", "" if not done.stderr and done.stdout.count("\n") == 1 else done.stderr[-160:]
    for term, columns in (("dumb", 80), ("xterm", 1), ("xterm", 0), ("vt100", 3)):
        workdir = bench.new(["base"])
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, columns.to_bytes(2, "little") * 4)
        ended = bench.run(workdir, "--stages=base", stderr=theirs, env={"TERM": term}, unset=["COLUMNS"])
        os.close(theirs)
        with contextlib.suppress(OSError):
            shown = os.read(ours, 1 << 16)
            ended = ended._replace(err="Traceback" if b"Traceback" in shown else "")
        os.close(ours)
        yield f"terminal {term} of {columns} columns", right(bench, workdir, ended)


GROUPS: dict[str, Injections] = {
    "places": (full_disk, beside_the_store, file_size, few_handles, read_only, no_links, own_files, odd_names),
    "environments": (environments, packages_read_only, gone_directory, streams),
}
