"""What injections share: a finished run to copy and to compare with, runs in processes of their own, and verdicts."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bend_jax import storage
from tests.problems import write_images

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

    def run(
        self,
        workdir: Path | str,
        *words: str,
        before: str = "",
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
        unset: Sequence[str] = (),
        **how: Any,
    ) -> Ended:
        """Run it to its end. prefix: of the command; env, unset: what differs in the environment; how: of Popen."""
        return self._end([*prefix, *self.command(workdir, *words, before=before)], env, unset, how)

    def alone(self, *words: str) -> Ended:
        """launch.py with these words and no others."""
        return self._end([sys.executable, str(self.tree / "launch.py"), *words], None, (), {})

    def _end(self, command: list[str], env: dict[str, str] | None, unset: Sequence[str], how: dict[str, Any]) -> Ended:
        environment = {n: x for n, x in {**self.environment, **(env or {})}.items() if n not in unset}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.tree}
        process: subprocess.Popen[Any] = subprocess.Popen(command, env=environment, **(pipes | how))
        text = [(x or b"").decode(errors="backslashreplace") for x in process.communicate(timeout=TIMEOUT)]
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
Injections = tuple[Callable[[Bench], Found], ...]


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
