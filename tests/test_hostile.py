"""Files that were damaged or made to do harm: one line each, no more memory than they can hold, nothing executed."""

import json
import os
import random
import resource
import signal
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bend_jax import files, given_logits, storage
from bend_jax.checks import SettingsError
from bend_jax.data import sources, splits
from bend_jax.data.sources import Data
from bend_jax.models import pytorch, torch_files
from bend_jax.run import progress
from tools import fuzz

GREY: dict[str, Any] = {"mean": (0.5,), "std": (0.5,)}
MEMORY = 40 * 2**20  # bytes that a reader may take beside what it had, for files of less than 1 MiB


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refused(read: Callable[[], Any]) -> str:
    """The one line with which a reader refuses, within bounds of memory."""
    before = peak()
    with pytest.raises(SettingsError) as error:
        read()
    assert peak() < before + MEMORY
    assert "\n" not in str(error.value)
    return str(error.value)


# .npz


def npy(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The header of an array, without one number."""
    head = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(11 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def zeros(path: Path, name: str, size: int, prefix: bytes) -> None:
    """A member of `size` zeros behind a prefix, compressed without making them."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        file.write(prefix)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


def test_an_npz_that_expands_to_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """100 MiB of zeros in 100 KiB; the same behind --evaluate; what nobody asks for is not read."""
    path, small = tmp_path / "own.npz", {"X": np.zeros((20, 4, 4), np.uint8), "y": np.arange(20) % 2}
    np.savez(path, y=np.arange(100) % 2)
    zeros(path, "X.npy", 100 * 2**20, npy((100, 1024, 1024)))
    assert path.stat().st_size < 200_000
    said = refused(lambda: splits.load(Data(name=f"npz:{path}", **GREY)))
    assert "own.npz is damaged or no .npz: cannot read it (it claims 100 MiB in a file of 0" in said
    path.unlink()
    np.savez(path, labels=np.zeros(2, int), validation_logits=np.zeros((1, 2, 2)), validation_labels=np.zeros(2, int))
    zeros(path, "logits.npy", 100 * 2**20, npy((1, 2, 13107200), "<f4"))
    assert "it claims 100 MiB" in refused(lambda: given_logits.evaluate_file(path))
    path.unlink()
    np.savez(path, **small)
    zeros(path, "junk.npy", 100 * 2**20, npy((100 * 2**20,)))
    before = peak()
    assert len(splits.load(Data(name=f"npz:{path}", **GREY)).train.labels) == 9
    assert peak() < before + MEMORY


@pytest.mark.parametrize("shape", [(10**6, 1000, 1000), (2000, 1000, 1000), (-3, 8, 8), (2**40, 2**40, 2**40)])
def test_headers_that_claim_more_than_is_there(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Whether the memory would be had or not."""
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("X.npy", npy(shape))
        archive.writestr("y.npy", npy((shape[0],), "<i8"))
    said = refused(lambda: splits.load(Data(name=f"npz:{tmp_path / 'own.npz'}", **GREY)))
    assert f"X.npy claims uint8{list(shape)} and has 0 bytes" in said


def test_members_that_share_bytes_and_memory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to claim more than a file holds that no ratio of sizes finds."""
    np.savez(tmp_path / "own.npz", a=np.arange(1000))
    with zipfile.ZipFile(tmp_path / "own.npz") as archive:
        twice = archive.infolist() * 2
        monkeypatch.setattr(archive, "infolist", lambda: twice)
        with pytest.raises(ValueError, match="overlap"):
            files.check_zip(archive, twice, (tmp_path / "own.npz").stat().st_size)
    monkeypatch.undo()
    monkeypatch.setattr(files, "free_memory", lambda: 7999)
    with pytest.raises(ValueError, match=r"8.13e-06 GB, and 8e-06 GB of memory are free"):
        files.read_npz(tmp_path / "own.npz", lambda names: names)
    monkeypatch.setattr(files, "free_memory", lambda: 8200)
    assert list(files.read_npz(tmp_path / "own.npz", lambda names: names)) == ["a"]


def test_a_name_of_two_lines_is_no_name(tmp_path: Path) -> None:
    """In an archive."""
    np.savez(tmp_path / "own.npz", **{"X\ny": np.zeros(3)})
    assert "a name in it is no text" in refused(lambda: splits.load(Data(name=f"npz:{tmp_path / 'own.npz'}", **GREY)))


def test_labels_of_a_thousand_million_take_no_memory(tmp_path: Path) -> None:
    """The error counts the classes that have no image."""
    labels = np.arange(300) % 10
    labels[3] = 10**9
    np.savez(tmp_path / "own.npz", X=np.zeros((300, 8, 8), np.uint8), y=labels)
    said = refused(lambda: splits.load(Data(name=f"npz:{tmp_path / 'own.npz'}", **GREY)))
    assert "no image of class 10, 11, 12, 13, 14 and 9999999" in said


# PyTorch's files

END = b"I00\n}tR"
SHAPES = {"params": {"fc": {"kernel": np.zeros((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}}


def name(module: str, what: str) -> bytes:
    """A global of a pickle."""
    return b"c" + module.encode() + b"\n" + what.encode() + b"\n"


def words(*numbers: int) -> bytes:
    """A tuple."""
    return b"(" + b"".join(b"L%dL\n" % n for n in numbers) + b"t"


def tensor(numbers: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Of storage "0"."""
    kind, key = name("torch", "FloatStorage"), b"X\x01\0\0\x000X\x03\0\0\0cpu"
    about = b"(X\x07\0\0\0storage" + kind + key + b"L%dL\ntQ" % numbers
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + about + b"I0\n" + words(*size) + words(*stride) + END


def state(**tensors: bytes) -> bytes:
    """The pickle of a state dict."""
    items = b"".join(b"X" + struct.pack("<I", len(key)) + key.encode() + one for key, one in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def pth(path: Path, content: bytes, numbers: int = 1) -> Path:
    """A file of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/data/0", bytes(4 * numbers))
    return path


NESTED = b"\x80\x02]q\0" + b"".join(b"(h%ch%clq%c" % (i, i, i + 1) for i in range(30)) + b"."

PICKLES = {
    "stride 0": (state(**{"fc.weight": tensor(1, (10**5, 10**5), (0, 0))}), "more numbers than its storage, 1"),
    "stride 0, reshaped": (state(**{"fc.gamma": tensor(1, (10**6, 99), (0, 0))}), "more numbers than its storage, 1"),
    "sizes beyond 64 bits": (state(**{"fc.weight": tensor(1, (2**32, 2**32), (1, 1))}), "reaches outside its storage"),
    "a table of 400,000,000": (b"\x80\x02}r" + struct.pack("<I", 400_000_000) + b".", "longer than the file"),
    "in itself": (b"\x80\x02}q\0X\x01\0\0\0ah\0s.", "holds no state dict"),
    "2^30 times the same list": (NESTED, "holds no state dict"),
    "100,000 lists in each other": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds no state dict"),
    "a name of two lines": (b"\x80\x02\x8c\x03o\ns\x8c\x01x\x93.", "it names o s.x, which is no part"),
    "a dtype with another state": (
        b"\x80\x02" + name("torch", "BFloat16Storage") + b"(I3\nX\x01\0\0\0<NNNI-1\nI-1\nI0\ntb.",
        "cannot be read",
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_ask_for_more_than_the_file_holds(kind: str, tmp_path: Path) -> None:
    """In memory or in time."""
    content, says = PICKLES[kind]
    assert says in refused(lambda: pytorch.load_init(pth(tmp_path / "net.pth", content), SHAPES))


def test_a_pickle_changes_nothing_that_outlives_it(tmp_path: Path) -> None:
    """It may set attributes of what it names."""
    change = b"N}X\x08\0\0\0__name__X\x01\0\0\0zs\x86b."
    torch_files.read(pth(tmp_path / "net.pth", b"\x80\x02" + name("torch._utils", "_rebuild_tensor") + change))
    assert torch_files.tensor.__name__ == "tensor"


def test_a_shared_storage_is_read_once(tmp_path: Path) -> None:
    """40 tensors of 4 MiB."""
    n = 2**20
    path = pth(tmp_path / "net.pth", state(**{f"a{i}.weight": tensor(n, (4, 3), (3, 1)) for i in range(40)}), n)
    before = peak()
    found = torch_files.read(path)
    assert len({x.base.__array_interface__["data"][0] for x in found.values()}) == 1
    assert peak() < before + MEMORY


HEADERS = {
    "10^12 numbers": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]},
    "from behind": {"dtype": "F32", "shape": [3], "data_offsets": [-12, 96]},
    "a size below 0": {"dtype": "F32", "shape": [-1, 4], "data_offsets": [0, 48]},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_that_claim_what_is_not_there(kind: str, tmp_path: Path) -> None:
    """Offsets and shapes must be those of the bytes."""
    head = json.dumps({"fc.weight": HEADERS[kind]}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(96))
    assert "fc.weight claims" in refused(lambda: pytorch.load_init(tmp_path / "a.safetensors", SHAPES))


def test_an_orbax_tree_that_claims_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the metadata, before any number is read."""
    storage.save_tree(tmp_path / "tree", SHAPES)
    monkeypatch.setattr(files, "FREELY", 59)
    monkeypatch.setattr(files, "EXPANSION", 0)
    assert "it claims 0 MiB" in refused(lambda: pytorch.load_init(tmp_path / "tree", SHAPES))
    monkeypatch.setattr(files, "FREELY", 60)
    pytorch.load_init(tmp_path / "tree", SHAPES)


# folders of images


def png(width: int, height: int) -> bytes:
    """A picture that says so much of itself, and has one row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(3 * width + 1)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of six grey pictures."""
    from PIL import Image

    for own in ("a", "b"):
        (tmp_path / own).mkdir()
        for i in range(6):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / own / f"{i}.png")
    return tmp_path


def test_pictures_that_are_none(pictures: Path) -> None:
    """A bomb beyond Pillow's limit and one beyond twice that, a program for Ghostscript, and a pipe: to read it is to
    wait for ever."""
    bad = pictures / "a" / "z.png"
    for content, says in {
        png(40_000, 30_000): "pixels) exceeds limit",
        png(10_000, 10_000): "it has 100,000,000 pixels; 89,478,485 are taken at most",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n": "cannot identify image file",
    }.items():
        bad.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert says in refused(lambda: sources.read(Data(name=f"folder:{pictures}", **GREY)))
    bad.unlink()
    os.mkfifo(bad)
    assert "no regular file" in refused(lambda: sources.read(Data(name=f"folder:{pictures}", **GREY)))


def test_links_in_a_circle_are_followed_once(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """To the folder itself, to one above, and over another folder that leads back; a link to elsewhere is followed."""
    for i, target in enumerate([".", "..", pictures]):
        (pictures / "a" / f"l{i}").symlink_to(target)
    other = tmp_path_factory.mktemp("other")
    (pictures / "a" / "0.png").rename(other / "0.png")
    (other / "back").symlink_to(pictures / "a")
    (pictures / "a" / "there").symlink_to(other)
    train, _ = sources.read(Data(name=f"folder:{pictures}", **GREY))
    assert np.bincount(train.labels).tolist() == [6, 6]


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"val_0.png\n", b"val_0.png\ta\nval_1.png\n"])
def test_annotations_that_are_none(content: bytes, pictures: Path) -> None:
    """Of Tiny-ImageNet's form."""
    for own in ("a", "b"):
        (pictures / "train").mkdir(exist_ok=True)
        (pictures / own).rename(pictures / "train" / own)
    (pictures / "val").mkdir()
    (pictures / "val" / "val_annotations.txt").write_bytes(content)
    said = refused(lambda: sources.read(Data(name=f"folder:{pictures}", **GREY)))
    assert "val_annotations.txt needs a file and its class in every line" in said


# manifests, metrics.jsonl


def test_manifests_that_lead_nowhere(tmp_path: Path) -> None:
    """Brackets without end, names that no file can have; a pipe and /dev/zero, whose sums have no end, are not read."""
    with storage.building(tmp_path, "base", 16 * "0", {}) as partial:
        storage.write_json(partial.output / "a.json", 1)
    path = storage.entry(tmp_path, "base", 16 * "0")
    content, file = storage.read_manifest(path), path / "a.json"

    def damage() -> str:
        with pytest.raises(storage.DamagedError) as error:
            storage.verify(path)
        return str(error.value)

    file.unlink()
    os.mkfifo(file)
    assert "a.json is missing" in damage()
    file.unlink()
    file.symlink_to("/dev/zero")
    assert "is a link" in damage()
    file.unlink()
    for other in ("a\0b", "", "\ud800", "a/" * 3000):
        changed = {**content, "sha256": {other: "0"}}
        storage.write_json(path / "manifest.json", {**changed, "sum": storage._sum(changed)})
        assert "is missing" in damage()
    (path / "manifest.json").write_text("[" * 100_000)
    assert "nested too deep" in damage()


LINES: Any = [
    {"training": "base", "step": s, "steps": 30, "loss": 1 / s, "seconds": 0.5, "rate": 9.0} for s in (10, 20, 30)
]
ONE, TWO, THREE = (json.dumps(line).encode() + b"\n" for line in LINES)


def changed(**values: Any) -> bytes:
    """The second line with other values."""
    return json.dumps({**LINES[1], **values}).encode() + b"\n"


DAMAGE: dict[str, tuple[bytes, list[int]]] = {
    "half a line": (ONE + TWO + THREE[:20], [10, 20]),
    "no newline at the end": (ONE + TWO[:-1], [10, 20]),
    "zeros": (ONE + TWO + bytes(4096), [10, 20]),
    "no text": (ONE + b"\xe7\xff\xfe\n" + THREE, [10, 30]),
    "two lines in one": (ONE + TWO[:-1] + THREE, [10]),
    "no object": (ONE + b"[1, 2]\n3\nnull\n" + THREE, [10, 30]),
    "brackets without end": (ONE + b"[" * 100_000 + b"\n" + THREE, [10, 30]),
    "empty": (b"", []),
    "blank lines": (ONE + b"\n\n" + TWO, [10, 20]),
    "a word for a step": (ONE + changed(step="ten") + THREE, [10, 30]),
    "half a step": (ONE + changed(step=20.5) + THREE, [10, 30]),
    "a list for a name": (ONE + changed(training=[1]) + THREE, [10, 30]),
    "no step": (ONE + b'{"training": "base"}\n' + THREE, [10, 30]),
    "NaN": (ONE + changed(loss=float("nan")) + THREE, [10, 30]),
    "too large a number": (ONE + changed(loss=10**400) + THREE, [10, 30]),
    "a step twice": (ONE + TWO + TWO + THREE, [10, 20, 30]),
    "backwards": (ONE + THREE + TWO, [10, 30]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_lines_of_a_killed_run_are_left_out(kind: str, tmp_path: Path) -> None:
    """And the run goes on from a file of whole lines, to which the next one is appended."""
    content, steps = DAMAGE[kind]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    lines = progress.read(path)
    assert [line["step"] for line in lines.get("base", [])] == steps
    progress.keep(path, lines, "base", 30)
    progress._append(path, {**LINES[2], "step": 40})
    assert [line["step"] for line in progress.read(path)["base"]] == [*steps, 40]
    progress.loss_curves(lines)


# every reader


@pytest.mark.parametrize("kind", ["npz", "logits", "pth", "th", "safetensors", "manifest", "metrics"])
def test_no_reader_ends_otherwise_than_in_a_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files of tools/fuzz.py, the same every time; a reader that ends otherwise would be told."""
    monkeypatch.setattr(signal, "alarm", lambda seconds: 0)
    target, random_ = fuzz.target_of(kind, tmp_path), random.Random(0)
    path = tmp_path / target.file
    assert {fuzz.attempt(target, path, content) for content in target.seeds} == {"read"}
    found = {fuzz.attempt(target, path, fuzz.damaged(random_.choice(target.seeds), random_)) for _ in range(30)}
    assert found <= {"read", "refused"}
    assert found != {"read"} or kind == "metrics"

    def careless(path: Path) -> Any:
        return path.read_bytes().index(b"not there")

    assert fuzz.attempt(target._replace(read=careless), path, b"").startswith("found: ValueError")
