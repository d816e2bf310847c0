"""Injects into real runs what goes wrong on real machines, and counts what they survive.

python tools/chaos.py                        # everything; about a quarter of an hour on two cores
python tools/chaos.py places environments    # of these groups
python tools/chaos.py --tree=PATH            # another checkout, such as an older one
python tools/chaos.py --seed=1               # other moments, other bytes

A run of a few seconds meets each injection in a process of its own. To survive is to end right, or with one line, no
traceback and the code that belongs to it; every finished stage stays whole; and the same command, once the cause is
gone, ends with the arrays of a run that nothing happened to. Full disks and read-only folders are real mounts, which
take root and Linux: without them these are counted as not injected.
"""

import argparse
import contextlib
import fcntl
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bend_jax import storage  # noqa: E402
from tests.problems import write_images  # noqa: E402

SMALL = [
    "--config.base.epochs=2",
    "--config.base.milestones=(1,)",
    "--config.collect.k=4",
    "--config.members=3",
    "--config.generate.bend.autoencoder.steps=10",
    "--config.generate.bend.diffusion.steps=20",
    "--config.generate.nulls=gaussian",
    "--config.evaluate.held_out=0",
    "--config.compute.save_seconds=0",
]
TREES = {"base": "variables", "collect": "checkpoints", "generate": "members", "evaluate": "predictions"}
STAGES = (*TREES, "memorisation", "report", "export")
TIMEOUT = 300
UNKNOWN = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]  # no superuser, and of no name


class Ended(NamedTuple):
    """Exit code, and what stdout and stderr got."""

    code: int
    out: str
    err: str


class Bench:
    """A folder to work in, the tree under test, and a finished run to copy and to compare with."""

    def __init__(self, folder: Path, tree: Path, seed: int) -> None:
        self.folder, self.tree, self.random = folder, tree, random.Random(seed)
        self.images = write_images(folder / "images.npz", 128, 120)
        self.reference, self.count = folder / "reference", 0
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        flags = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
        self.environment = {**os.environ, "PYTHONPATH": str(tree), "XLA_FLAGS": flags}
        self.environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        ended = self.run(self.reference, f"--stages={','.join(s for s in STAGES if s != 'memorisation')}")
        assert ended.code == 0, ended
        self.arrays = arrays_of(self.reference)

    def new(self, without: Sequence[str] = (), at: Path | None = None) -> Path:
        """A copy of the finished run without some of its stages."""
        self.count += 1
        workdir = at or self.folder / f"run{self.count}"
        shutil.copytree(self.reference, workdir, symlinks=True, dirs_exist_ok=True)
        for stage in without:
            for path in [*workdir.glob(f"store/{stage}-*")]:
                shutil.rmtree(path)
        return workdir

    def command(self, workdir: Path | str, *words: str, before: str = "") -> list[str]:
        """The command line; before: Python to execute first, in the same process."""
        script = str(self.tree / "launch.py")
        start = [script]
        if before:
            end = f"sys.argv = sys.argv[1:]; runpy.run_path({script!r}, run_name='__main__')"
            start = ["-c", f"import os, sys, runpy\n{before}\n{end}", script]
        own = [f"--config={self.tree}/tests/configs/tiny.py", f"--config.data.name=npz:{self.images}", *SMALL]
        return [sys.executable, *start, *own, f"--workdir={workdir}", *words]

    def run(self, workdir: Path | str, *words: str, **how: Any) -> Ended:
        """Run it to its end. how: `before`, `prefix` of the command line, `unset` and `env` of the environment, the
        rest for Popen."""
        command = [*how.pop("prefix", []), *self.command(workdir, *words, before=how.pop("before", ""))]
        env = {**self.environment, **how.pop("env", {})}
        env = (
            {name: value for name, value in env.items() if name not in how.pop("unset", ())} if "unset" in how else env
        )
        how = {
            "cwd": self.tree,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **how,
        }
        process = subprocess.Popen(command, env=env, **how)
        out, err = process.communicate(timeout=TIMEOUT)
        text = [(x or b"").decode(errors="backslashreplace") for x in (out, err)]
        return Ended(process.returncode, *text)


def arrays_of(workdir: Path) -> dict[str, str]:
    """The digests of the arrays of every stage in a store."""
    found = {}
    for path in storage.stages(workdir / "store"):
        tree = TREES.get(path.name.rpartition("-")[0])
        if tree:
            found[path.name] = storage.tree_digest(storage.load_tree(path / tree))
    return found


def told(ended: Ended, *codes: int) -> str:
    """ "" for one line on stderr and one of these codes, else what came."""
    lines = ended.err.strip().splitlines()
    if ended.code in codes and len(lines) == 1 and "Traceback" not in ended.err:
        return ""
    return f"code {ended.code}, {len(lines)} lines on stderr: {(lines or [''])[-1][:160]}"


def right(bench: Bench, workdir: Path, ended: Ended | None = None) -> str:
    """ "" for a run that ended well, with the reference's arrays and nothing on stderr, else what differs."""
    if ended is not None and (ended.code or ended.err.strip()):
        return f"code {ended.code}, on stderr: {(ended.err.strip().splitlines() or [''])[-1][:160]}"
    damaged = storage.damaged(workdir / "store")
    if damaged:
        return f"damaged: {'; '.join(damaged.values())}"[:200]
    different = [name for name, digest in arrays_of(workdir).items() if bench.arrays.get(name) != digest]
    return f"other arrays in {', '.join(different)}" if different else ""


Found = Iterator[tuple[str, str | None]]  # what was injected, and what fell short: "" for nothing, None: not injected


# 1: never wrong silently


def damaged_files(bench: Bench) -> Found:
    """A flipped bit in every file of a store, every file missing, an extra file in every folder."""
    workdir = bench.new()
    for path in storage.stages(workdir / "store"):
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            content = file.read_bytes()
            name = f"bit flipped in {file.relative_to(path)} of {path.name}"
            if content:
                place = bench.random.randrange(8 * len(content))
                changed = bytearray(content)
                changed[place // 8] ^= 1 << place % 8
                file.write_bytes(changed)
                yield name, "" if path in storage.damaged(workdir / "store") else "not found"
            if file.name != "manifest.json":
                file.unlink()
                yield f"no {file.name}", "" if path in storage.damaged(workdir / "store") else "not found"
            file.write_bytes(content)
        (path / "more").touch()
        yield f"a file more in {path.name}", "" if path in storage.damaged(workdir / "store") else "not found"
        (path / "more").unlink()


def swapped_stages(bench: Bench) -> Found:
    """Two stages under each other's names; a run must refuse them."""
    workdir = bench.new(["evaluate", "report"])
    one, other = sorted(workdir.glob("store/generate-*"))
    one.rename(workdir / "aside")
    other.rename(one)
    (workdir / "aside").rename(other)
    yield "two generators swapped", told(bench.run(workdir, "--stages=evaluate"), 1)


# 2: digests cover what changes numbers


def arithmetic(bench: Bench) -> Found:
    """What a store holds is not what such a run asks for."""
    for setting in (
        "JAX_ENABLE_X64=1",
        "JAX_DEFAULT_PRNG_IMPL=rbg",
        "JAX_DEFAULT_PRNG_IMPL=unsafe_rbg",
        "JAX_DEFAULT_MATMUL_PRECISION=highest",
        "JAX_THREEFRY_PARTITIONABLE=0",
    ):
        ended = bench.run(bench.new(), "--stages=report", env=dict([setting.split("=")]))
        yield setting, told(ended, 2) or ("" if "not in" in ended.err else ended.err)


# 3: signals


def killed(bench: Bench) -> Found:
    """Four signals, each at three moments from start-up on; then the same command goes on."""
    codes = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGKILL: -9}
    for number, code in codes.items():
        for _ in range(3):
            workdir, moment = bench.folder / f"killed{bench.random.random()}", bench.random.uniform(1.0, 9.0)
            command = bench.command(workdir, "--stages=base,collect")
            process = subprocess.Popen(
                command, cwd=bench.tree, env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.send_signal(number)
            ended = Ended(-99, "", "longer than 30 s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                err = process.communicate(timeout=30)[1].decode()
                ended = Ended(process.returncode, "", err)
            fault = "" if ended.code in (code, 0) and "Traceback" not in ended.err else told(ended, code)
            yield (
                f"{number.name} after {moment:.1f} s",
                fault or right(bench, workdir, bench.run(workdir, "--stages=base,collect")),
            )


# 4: several runs in one work directory


def together(bench: Bench) -> Found:
    """Three at once, and three of which one is killed: the others end right, and each stage was computed once."""
    for kills in (0, 1):
        workdir = bench.folder / f"together{kills}"
        command = bench.command(workdir, "--stages=base,collect")
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [subprocess.Popen(command, cwd=bench.tree, env=bench.environment, **streams) for _ in range(3)]
        if kills:
            give_up = time.monotonic() + TIMEOUT
            while not [*workdir.glob("store/.base-*.partial/state/base")] and time.monotonic() < give_up:
                time.sleep(0.02)
            processes[0].kill()
        ended = [Ended(p.returncode, out.decode(), err.decode()) for p in processes for out, err in [p.communicate()]]
        faults = [right(bench, workdir, one) for one in ended[kills:]]
        built = sum("collect: 4 checkpoints" in one.out for one in ended)
        yield (
            f"three runs, {kills} killed",
            next((x for x in faults if x), "" if built == 1 else f"built {built} times"),
        )


# 5: places


@contextlib.contextmanager
def mounted(folder: Path, kib: int) -> Iterator[bool]:
    """A file system of that size; False where it may not be mounted."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    may = shutil.which("mount") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield may
    finally:
        if may:
            subprocess.run(["umount", str(folder)], check=True)


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
            words = [sys.executable, str(bench.tree / "launch.py"), f"{flag}={value}"] if alone else []
            words = words or [*bench.command(bench.folder / "none", "--stages=base"), f"{flag}={value}"]
            done = subprocess.run(words, cwd=bench.folder, env=bench.environment, capture_output=True, check=False)
            err = done.stderr.decode(errors="backslashreplace")
            yield f"{name} for {flag}", told(Ended(done.returncode, "", err), 2)
    for name in ("with spaces", "-dash", "ünïcödé 漢字 \U0001f600", "quo'te\"", "new\nline", "100%{}"):
        workdir = bench.new(["base", "report"], bench.folder / name)
        yield f"named {name!r}", right(bench, workdir, bench.run(workdir, "--stages=base,report"))


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
        workdir = bench.new(["base", "report"])
        yield name, right(bench, workdir, bench.run(workdir, "--stages=base,report", **how))
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
    packages = Path(storage.np.__file__).parents[1]
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
    words = "--stages=base,report"
    for closed in ((1,), (2,), (0, 1, 2)):

        def close(closed: tuple[int, ...] = closed) -> None:
            for number in closed:
                os.close(number)

        workdir = bench.new(["base", "report"])
        ended = bench.run(workdir, words, preexec_fn=close)
        yield f"closed {closed}", right(bench, workdir, ended)
    workdir = bench.new(["base", "report"])
    with open("/dev/full", "wb") as full:
        ended = bench.run(workdir, words, stdout=full)
    yield "stdout on a full device", told(ended, 0) or right(bench, workdir)
    for number in (1, 2):
        workdir = bench.new(["base", "report"])
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            ended = bench.run(workdir, words, **{"stdout" if number == 1 else "stderr": pipe})
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


GROUPS: dict[str, tuple[Callable[[Bench], Found], ...]] = {
    "files": (damaged_files, swapped_stages),
    "digests": (arithmetic,),
    "signals": (killed,),
    "together": (together,),
    "places": (full_disk, file_size, few_handles, read_only, no_links, own_files, odd_names),
    "environments": (environments, packages_read_only, gone_directory, streams),
}


def main() -> int:
    """Inject, print a line for each that fell short and a table. Returns 0 where all were survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "groups", nargs="*", help=f"of {', '.join(GROUPS)} or of their functions; all where none is given"
    )
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows, short = list[tuple[str, str, int, int, int]](), 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        bench = Bench(Path(folder), given.tree.resolve(), given.seed)
        for group, functions in GROUPS.items():
            for function in functions:
                if given.groups and not {group, function.__name__} & set(given.groups):
                    continue
                counts = [0, 0, 0]  # injected, survived, not injected
                for name, fault in function(bench):
                    counts[0] += fault is not None
                    counts[1] += fault == ""
                    counts[2] += fault is None
                    if fault:
                        print(f"{function.__name__}: {name}: {fault}", flush=True)
                short += counts[0] - counts[1]
                rows.append((group, function.__name__, *counts))
                print(f"{function.__name__}: {counts[1]} of {counts[0]} survived", flush=True)
    print(f"\n{'':14}{'':20}{'injected':>10}{'survived':>10}{'not injected':>14}")
    for group, name, injected, survived, skipped in rows:
        print(f"{group:14}{name:20}{injected:10}{survived:10}{skipped:14}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
