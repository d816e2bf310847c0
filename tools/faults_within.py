"""Injections into what a run itself handles: files of the store, settings of JAX, signals, several runs at once."""

import contextlib
import signal
import subprocess
import time

from bend_jax import storage
from tools.injecting import TIMEOUT, Bench, Ended, Found, Injections, right, told

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
        name, _, value = setting.partition("=")
        ended = bench.run(bench.new(), "--stages=report", env={name: value})
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
        processes = [
            subprocess.Popen(
                command,
                cwd=bench.tree,
                env=bench.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        if kills:
            give_up = time.monotonic() + TIMEOUT
            while not [*workdir.glob("store/.base-*.partial/state/base")] and time.monotonic() < give_up:
                time.sleep(0.02)
            processes[0].kill()
        ended = [Ended(p.returncode, out, err) for p in processes for out, err in [p.communicate()]]
        faults = [right(bench, workdir, one) for one in ended[kills:]]
        built = sum("collect: 4 checkpoints" in one.out for one in ended)
        yield (
            f"three runs, {kills} killed",
            next((x for x in faults if x), "" if built == 1 else f"built {built} times"),
        )


GROUPS: dict[str, Injections] = {
    "files": (damaged_files, swapped_stages),
    "digests": (arithmetic,),
    "signals": (killed,),
    "together": (together,),
}
