"""Damaged files for every reader, and random input for every property: `python tools/fuzz.py TARGET [SECONDS]`.

A target is a reader (npz, pth, th, safetensors, manifest, metrics) or `properties`. A reader gets whole files that were
damaged at random: bits flipped, parts cut out, doubled, put elsewhere, overwritten with what often breaks readers.
It may read one or refuse it in one line (SettingsError, DamagedError); all else is a finding: another error, a wait of
more than 10 s, more than MEMORY bytes. What it read of a file without a sum may be other numbers. Findings are written
to the folder of --keep. The last line counts what was read, what refused, and what found.
"""

import argparse
import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bend_jax import given_logits, storage
from bend_jax.checks import SettingsError
from bend_jax.data import npz
from bend_jax.models import pytorch, torch_files
from bend_jax.run import progress

ROOT = Path(__file__).parents[1]
MEMORY = 512 * 2**20  # beside what the process has at its start
LIMIT = 10  # seconds for one file
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"-1", b"9" * 20, b"NaN")
TOKENS = (*NUMBERS, b"[" * 50, b"(0,)", b"\n", b"\x80", b"null", b'"', b"{}", b"I4294967296\n")
SHAPES = {"params": {"fc": {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}}


class Target(NamedTuple):
    """The name of its file, whole files to begin with, and how one is read."""

    file: str
    seeds: list[bytes]
    read: Callable[[Path], Any]


def npz_bytes(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    """A file of NumPy."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def name(what: str) -> bytes:
    """A global of a pickle."""
    return b"c" + what.encode() + b"\n"


def tensor(key: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A tensor of a storage of its own, by the opcodes of protocol 0."""
    tuples = [b"(" + b"".join(b"I%d\n" % n for n in numbers) + b"t" for numbers in (size, stride)]
    count = int(np.prod(size))
    about = b"(Vstorage\n" + name("torch\nFloatStorage") + b"V%d\nVcpu\nI%d\n" % (key, count)
    return name("torch._utils\n_rebuild_tensor_v2") + b"(" + about + b"%stQI0\n" + tuples[0] + tuples[1] + b"I00\n}tR"


def state_dict(view: bytes) -> bytes:
    """A pickle of two tensors and what lies beside them."""
    weight, bias = (tensor(*own).replace(b"%s", view) for own in ((0, (3, 4), (4, 1)), (1, (3,), (1,))))
    beside = b"Vepoch\nI3\nVargs\n" + name("argparse\nNamespace") + b")\x81}Vlr\nF0.1\nsb"
    return b"\x80\x02}(Vfc.weight\n" + weight + b"Vfc.bias\n" + bias + beside + b"u."


def pth_bytes() -> bytes:
    """A file of torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", state_dict(b""))
        archive.writestr("net/byteorder", "little")
        archive.writestr("net/data/0", np.arange(12, dtype=np.float32).tobytes())
        archive.writestr("net/data/1", np.arange(3, dtype=np.float32).tobytes())
    return file.getvalue()


def th_bytes() -> bytes:
    """A file of torch.save before 1.6."""
    parts = (torch_files.MAGIC, torch_files.PROTOCOL, {"little_endian": True})
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    numbers = [np.arange(n, dtype=np.float32) for n in (12, 3)]
    stored = b"".join(struct.pack("<Q", x.size) + x.tobytes() for x in numbers)
    return head + state_dict(b"N") + pickle.dumps(["0", "1"], protocol=2) + stored


def safetensors_bytes() -> bytes:
    """Two tensors."""
    about = {"fc.weight": [3, 4], "fc.bias": [3]}
    begins = {"fc.weight": [0, 48], "fc.bias": [48, 60]}
    head = {key: {"dtype": "F32", "shape": shape, "data_offsets": begins[key]} for key, shape in about.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    return struct.pack("<Q", len(text)) + text + np.arange(15, dtype=np.float32).tobytes()


def manifest_target(folder: Path) -> Target:
    """A stage whose manifest is damaged; it may never pass as another one."""
    with storage.building(folder, "base", 16 * "0", {"seed": 0, "settings": {"a": [1, 0.5, None]}}) as partial:
        storage.write_json(partial.output / "result.json", {"accuracy": 0.5})
    path = storage.entry(folder, "base", 16 * "0")
    whole = storage.verify(path)
    content = (path / "manifest.json").read_bytes()

    def read(file: Path) -> None:
        (path / "manifest.json").write_bytes(file.read_bytes())
        if storage.verify(path) != whole:
            raise AssertionError("another manifest passed")

    return Target("manifest.json", [content], read)


def read_metrics(path: Path) -> None:
    """As a run does that goes on."""
    lines = progress.read(path)
    progress.keep(path, lines, "base", 20)
    progress.loss_curves(lines)
    if progress.read(path) != {name: own for name, own in lines.items() if own}:
        raise AssertionError("what was written is not what was read")


def target_of(kind: str, folder: Path) -> Target:
    """The target of that name."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (12, 4, 4, 1)).astype(np.uint8), np.arange(12) % 3
    logits = rng.normal(size=(2, 12, 3)).astype(np.float32)
    own = {"logits": logits, "labels": labels, "validation_logits": logits + 1, "validation_labels": labels}
    lines = [
        {"training": name, "step": s, "steps": 30, "loss": 1 / s, "seconds": 0.1 * s, "rate": 9.5, "held_out_loss": 0.5}
        for name in ("base", "other")
        for s in (10, 20, 30)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read_npz(path: Path) -> None:
        npz.read(path)

    def read_logits(path: Path) -> None:
        given_logits._checked(**given_logits.read(path), coverage=0.5)

    targets = {
        "npz": lambda: Target(
            "own.npz", [npz_bytes(save, X=images, y=labels) for save in (np.savez, np.savez_compressed)], read_npz
        ),
        "logits": lambda: Target(
            "own.npz", [npz_bytes(save, **own) for save in (np.savez, np.savez_compressed)], read_logits
        ),
        "pth": lambda: Target("net.pth", [pth_bytes()], lambda path: pytorch.load_init(path, SHAPES)),
        "th": lambda: Target("net.th", [th_bytes()], lambda path: pytorch.load_init(path, SHAPES)),
        "safetensors": lambda: Target(
            "net.safetensors", [safetensors_bytes()], lambda path: pytorch.load_init(path, SHAPES)
        ),
        "manifest": lambda: manifest_target(folder / "store"),
        "metrics": lambda: Target("metrics.jsonl", [text], read_metrics),
    }
    return targets[kind]()


def damaged(content: bytes, random: random.Random) -> bytes:
    """The content with one to four kinds of damage."""
    result = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        begin = random.randrange(len(result) + 1)
        end = min(len(result), begin + random.choice((1, 2, 8, 64, 1000)))
        kind = random.randrange(7)
        if kind == 0:
            del result[begin:]
        elif kind == 1:
            del result[begin:end]
        elif kind == 2:
            result[begin:begin] = result[begin:end] * random.choice((1, 3, 50))
        elif kind == 3:
            token = random.choice(TOKENS)
            result[begin : begin + random.choice((0, len(token)))] = token
        elif kind == 4:
            place = random.randrange(len(result) + 1)
            result[place:place] = result[begin:end]
        elif begin < len(result):
            result[begin] = result[begin] ^ (1 << random.randrange(8)) if kind == 5 else random.randrange(256)
    return bytes(result)


def attempt(target: Target, path: Path, content: bytes) -> str:
    """What became of one file: read, refused, or what was found."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.alarm(LIMIT)
            target.read(path)
    except (SettingsError, storage.DamagedError) as error:
        return "refused" if "\n" not in str(error) else "found: more than a line"
    except Exception as error:  # noqa: BLE001
        return f"found: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "read"


def fuzz(kind: str, seconds: float, seed: int, keep: Path) -> int:
    """Damage files for so long. Returns how many findings there are."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    random_, counts, told = random.Random(seed), Counter[str](), set[str]()

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as folder:
        target = target_of(kind, Path(folder))
        path, end = Path(folder) / target.file, time.monotonic() + seconds
        for content in target.seeds:
            assert attempt(target, path, content) == "read", attempt(target, path, content)
        while time.monotonic() < end:
            content = damaged(random_.choice(target.seeds), random_)
            found = attempt(target, path, content)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if 1024 * (peak - before) > MEMORY:
                found, before = f"found: {(peak - before) / 1024:.0f} MiB", peak
            counts[found.split(":")[0]] += 1
            what = found[:60]
            if found.startswith("found") and what not in told:
                told.add(what)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{len(told)}").write_bytes(content)
                print(f"{kind}: {found[:300]}", flush=True)
    print(f"{kind}: {sum(counts.values())} files in {seconds:g} s: {dict(counts)}")
    return counts["found"]


def main() -> int:
    """Returns 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("npz", "logits", "pth", "th", "safetensors", "manifest", "metrics", "properties")
    parser.add_argument("target", choices=kinds)
    parser.add_argument("seconds", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("findings"))
    parser.add_argument("--examples", type=int, default=500, help="of each property")
    own = parser.parse_args()
    if own.target == "properties":
        command = [sys.executable, "-m", "pytest", "-q", "-n0", str(ROOT / "tests" / "test_properties.py")]
        return subprocess.call(command, env={**os.environ, "BEND_JAX_EXAMPLES": str(own.examples)}, cwd=ROOT)
    return 1 if fuzz(own.target, own.seconds, own.seed, own.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
