"""A stage is there whole or not at all, what is read is what was written, a training goes on from its last state."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bend_jax import storage, training
from bend_jax.checks import SettingsError
from bend_jax.run import saved_states

ROOT = Path(__file__).parent.parent
# where a damaged state cannot be read, orbax's other reads end after their event loop is closed
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
DIGEST = "0123456789abcdef"
TREE = {
    "params": {"layer1": {"0": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}}, "bias": np.ones(3)},
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.1], np.float32),
    "half": np.asarray(jnp.array([1.5, -2.25], jnp.bfloat16)),
    "counts": np.array([0, 65535], np.uint16),
    "flags": np.array([True, False]),
    "big": np.array([2**62 + 1, -3], np.int64),
    "scalar": np.float32(0.1),
    "int": 7,
    "float": 0.1,
}


def python(code: str, *words: str) -> subprocess.Popen[str]:
    """Another process."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def build(store: Path) -> Path:
    """A finished stage with files of several kinds and depths."""
    with storage.building(store, "base", DIGEST, {"stage": "base"}) as partial:
        storage.save_tree(partial.output / "variables", TREE)
        storage.write_json(partial.output / "result.json", {"accuracy": 0.5})
        (partial.output / "report.md").write_text("# report\n")
    return storage.entry(store, "base", DIGEST)


def same(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure, types, shapes and bytes."""
    left, right = jax.tree.map(np.asarray, jax.device_get(a)), jax.tree.map(np.asarray, jax.device_get(b))
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def flip(path: Path, place: int = -1) -> None:
    """Change one bit of one byte, the middle one unless told."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place < 0 else place] ^= 1
    path.write_bytes(content)


# digests


def test_a_digest_is_the_sha256_of_sorted_compact_json() -> None:
    """Worked by hand, so that no other version of the code finds other directories by accident."""
    text = b'{"a":[1,2.5,null],"b":{"x":"y","z":true}}'
    value = {"b": {"z": True, "x": "y"}, "a": (1, 2.5, None)}
    assert storage.digest_of(value) == hashlib.sha256(text).hexdigest()[:16]


def test_a_digest_is_the_same_in_another_process_and_for_any_order_of_keys() -> None:
    """Whatever the hash seed of strings."""
    code = "from bend_jax import storage; print(storage.digest_of({k: len(k) for k in {'lr', 'batch', 'epochs', 'k'}}))"
    out = python(code).communicate(timeout=120)[0].strip()
    assert out == storage.digest_of({"k": 1, "epochs": 6, "batch": 5, "lr": 2})
    assert out == storage.digest_of({"lr": 2, "batch": 5, "epochs": 6, "k": 1})


def test_a_digest_changes_with_every_value_and_refuses_nan() -> None:
    """1 and 1.0, a value and its text, differ as JSON does."""
    values = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": True}, {"b": 1}, {}]
    assert len({storage.digest_of(value) for value in values}) == len(values)
    with pytest.raises(ValueError, match="JSON"):
        storage.digest_of({"lr": float("nan")})


# whole or not at all


def test_a_finished_stage_has_a_manifest_of_every_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """Format, versions, what was passed, what the block added, and the SHA-256 of each file."""
    with storage.building(tmp_path, "base", DIGEST, manifest := {"stage": "base"}) as partial:
        (partial.output / "deep" / "er").mkdir(parents=True)
        (partial.output / "deep" / "er" / "x").write_bytes(b"abc")
        (partial.output / "y").write_bytes(b"")
        partial.state.mkdir()
        manifest["seconds"] = "added"
    path = storage.entry(tmp_path, "base", DIGEST)
    assert os.listdir(tmp_path) == [path.name] == [f"base-{DIGEST}"]
    assert storage.is_complete(path)
    found = storage.verify(path)
    assert found["sha256"] == {"deep/er/x": hashlib.sha256(b"abc").hexdigest(), "y": hashlib.sha256(b"").hexdigest()}
    assert (found["stage"], found["seconds"], found["format"]) == ("base", "added", storage.FORMAT)
    assert found["versions"]["jax"] == jax.__version__


def test_an_error_inside_leaves_no_entry_and_the_next_try_starts_with_an_empty_output(tmp_path: Path) -> None:
    """The state of the training stays for the next try, the half-written output does not."""

    def halfway() -> None:
        with storage.building(tmp_path, "base", DIGEST, {}) as partial:
            (partial.output / "half").write_text("written")
            partial.state.mkdir()
            (partial.state / "step").write_text("9")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        halfway()
    path = storage.entry(tmp_path, "base", DIGEST)
    assert not path.exists()
    assert not storage.is_complete(path)
    storage.sweep(tmp_path)
    with storage.building(tmp_path, "base", DIGEST, {}) as partial:
        assert os.listdir(partial.output) == []
        assert (partial.state / "step").read_text() == "9"
        (partial.output / "whole").write_text("written")
    assert set(storage.verify(path)["sha256"]) == {"whole"}
    assert os.listdir(tmp_path) == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from bend_jax import storage
rename = os.rename
def killed(source, target):
    if sys.argv[2] == "after":
        rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = killed
with storage.building(Path(sys.argv[1]), "base", sys.argv[3], {}) as partial:
    (partial.output / "x").write_text("whole")
    partial.state.mkdir()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_the_rename_leaves_a_whole_stage_or_none(tmp_path: Path, when: str) -> None:
    """Before it: nothing there, what was saved is kept. After it: all there, and `sweep` tidies up."""
    process = python(KILLED, str(tmp_path), when, DIGEST)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    path, left = storage.entry(tmp_path, "base", DIGEST), tmp_path / f".base-{DIGEST}.partial"
    assert left.is_dir()
    assert storage.is_complete(path) == path.exists() == (when == "after")
    storage.sweep(tmp_path)
    assert left.exists() == (when == "before")
    if when == "before":
        with storage.building(tmp_path, "base", DIGEST, {}) as partial:
            assert partial.state.is_dir()
            (partial.output / "x").write_text("whole")
    assert set(storage.verify(path)["sha256"]) == {"x"}
    assert os.listdir(tmp_path) == [path.name]


HOLDING = """
import sys
from pathlib import Path
from bend_jax import storage
with storage.building(Path(sys.argv[1]), "base", sys.argv[2], {}):
    print("building", flush=True)
    sys.stdin.read()
"""


def test_two_processes_that_build_the_same_stage_get_one_clear_error(tmp_path: Path) -> None:
    """The second one is told; a killed first one holds nothing up; another stage is not concerned."""
    process = python(HOLDING, str(tmp_path), DIGEST)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "building\n"
        with pytest.raises(SettingsError) as error, storage.building(tmp_path, "base", DIGEST, {}):
            pass
        assert f"base-{DIGEST}" in str(error.value)
        assert "wait for it" in str(error.value)
        assert "\n" not in str(error.value)
        with storage.building(tmp_path, "base", DIGEST[::-1], {}):
            pass
    finally:
        process.kill()
        process.communicate(timeout=120)
    assert not storage.is_complete(storage.entry(tmp_path, "base", DIGEST))
    with storage.building(tmp_path, "base", DIGEST, {}):
        pass
    assert storage.is_complete(storage.entry(tmp_path, "base", DIGEST))


# what is read is what was written


def test_a_flipped_byte_in_any_file_is_found(tmp_path: Path) -> None:
    """First, middle or last byte of every file: the error names the file and what to do."""
    path = build(tmp_path)
    files = [p for p in path.rglob("*") if p.is_file() and p.name != "manifest.json" and p.stat().st_size]
    assert len(files) > 5
    storage.verify(path)
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            flip(file, place)
            with pytest.raises(storage.DamagedError) as error:
                storage.verify(path)
            assert str(error.value).startswith(f"{file} is damaged")
            assert f"delete {path} " in str(error.value)
            file.write_bytes(whole)
    storage.verify(path)


def test_every_file_of_a_stage_is_in_its_manifest(tmp_path: Path) -> None:
    """Orbax's own files as well."""
    path = build(tmp_path)
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(storage.verify(path)["sha256"]) == files - {"manifest.json"}


@pytest.mark.parametrize("damage", ["truncated", "grown", "missing", "folder gone"])
def test_other_damage_is_found_too(tmp_path: Path, damage: str) -> None:
    """By name, with the remedy, on one line."""
    path = build(tmp_path)
    file = path / "result.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "grown":
        file.write_bytes(file.read_bytes() + b"\n")
    elif damage == "missing":
        file.unlink()
    else:
        shutil.rmtree(path / "variables")
    with pytest.raises(storage.DamagedError) as error:
        storage.verify(path)
    assert str(path / "variables" if damage == "folder gone" else file) in str(error.value)
    assert f"delete {path} to have it computed again" in str(error.value)
    assert "\n" not in str(error.value)


UNREADABLE = [
    pytest.param(b"", id="empty"),
    pytest.param(b'{"sha256": {', id="cut off"),
    pytest.param(b"\xff\xfe\x00", id="not text"),
    pytest.param(b"{}", id="no sums"),
    pytest.param(b"[]", id="a list"),
]


@pytest.mark.parametrize("content", UNREADABLE)
def test_an_unreadable_manifest_is_damage(tmp_path: Path, content: bytes) -> None:
    """Named like any other file."""
    path = build(tmp_path)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(storage.DamagedError) as error:
        storage.verify(path)
    assert str(path / "manifest.json") in str(error.value)
    assert f"delete {path} " in str(error.value)


def test_an_entry_that_lost_its_manifest_can_be_built_again_or_is_named(tmp_path: Path) -> None:
    """What a copy that broke off leaves behind."""
    path = build(tmp_path)
    (path / "manifest.json").unlink()
    assert not storage.is_complete(path)
    try:
        build(tmp_path)
    except (storage.DamagedError, SettingsError) as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        storage.verify(path)


# trees


def test_a_tree_comes_back_exactly_as_numpy(tmp_path: Path) -> None:
    """Nested, scalars, integers, bfloat16, NaN and signed zero; saved from the device or from the host."""
    storage.save_tree(tmp_path / "host", TREE)
    found = storage.load_tree(tmp_path / "host")
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    assert same(found, TREE)
    arrays = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.int32(3), "d": jnp.ones(2, jnp.bfloat16)}}
    storage.save_tree(tmp_path / "device", arrays)
    assert same(storage.load_tree(tmp_path / "device"), arrays)


def test_json_comes_back_and_refuses_nan(tmp_path: Path) -> None:
    """What is undefined is null."""
    value = {"a": [1, 2.5, None], "b": {"c": "text"}, "d": 0.1 + 0.2}
    storage.write_json(tmp_path / "x.json", value)
    assert storage.read_json(tmp_path / "x.json") == value == json.loads((tmp_path / "x.json").read_text())
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "y.json", {"a": float("inf")})


# the state of a running training


def state_at(step: int) -> training.State:
    """A state as a training has it: parameters, optimiser, an order of images, an average."""
    rng = np.random.default_rng(step)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "b": jnp.asarray(rng.normal(size=2), jnp.float32)}
    optimizer = optax.adamw(1e-3)
    state = training.start_with_ema(params, optimizer)
    _, opt = optimizer.update(params, state.opt, params)
    return state._replace(step=jnp.int32(step), opt=opt, extra={"order": jnp.asarray(rng.permutation(5))})


def saved(folder: Path, *steps: int) -> None:
    """Save the states of these steps, as one process does."""
    saver = saved_states.StateSaver(folder, 0.0)
    for step in steps:
        saver.save("base", state_at(step), float(step))


def resumed(folder: Path) -> tuple[training.State, float]:
    """What another process would go on from; step 0 where there is nothing."""
    return saved_states.StateSaver(folder, 0.0).resume("base", state_at(0))


def test_a_state_comes_back_exactly_in_a_new_process(tmp_path: Path) -> None:
    """The last one that was saved, with the seconds, and only two are kept; a training of another name has none."""
    given, seconds = resumed(tmp_path)
    assert same(given, state_at(0))
    assert seconds == 0
    saved(tmp_path, 9, 18, 27)
    found, seconds = resumed(tmp_path)
    assert isinstance(found, training.State)
    assert same(found, state_at(27))
    assert seconds == 27
    assert {p.name for p in (tmp_path / "base").iterdir()} == {"18", "27"}
    other, _ = saved_states.StateSaver(tmp_path, 0.0).resume("diffusion", state_at(0))
    assert same(other, state_at(0))


def test_saves_are_as_far_apart_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is set by hand: after `every` seconds since the start or the last save, each training its own."""
    now = [1000.0]
    monkeypatch.setattr(saved_states, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def steps(name: str) -> set[str]:
        folder = tmp_path / name
        return {p.name for p in folder.iterdir()} if folder.is_dir() else set()

    saver = saved_states.StateSaver(tmp_path, 30.0)
    saver.resume("base", state_at(0))
    for seconds, step, expected in [(29.0, 1, set()), (1.0, 2, {"2"}), (29.0, 3, {"2"}), (1.5, 4, {"2", "4"})]:
        now[0] += seconds
        saver.save("base", state_at(step), 0.0)
        assert steps("base") == expected
    saver.resume("diffusion", state_at(0))
    saver.save("diffusion", state_at(1), 0.0)
    assert steps("diffusion") == set()


def test_no_save_within_a_long_interval_and_every_one_without(tmp_path: Path) -> None:
    """The two ends of the setting."""
    for every, expected in ((1e9, 0), (0.0, 2)):
        saver = saved_states.StateSaver(tmp_path / str(every), every)
        saver.resume("base", state_at(0))
        saver.save("base", state_at(1), 0.0)
        saver.save("base", state_at(2), 0.0)
        assert len(list((tmp_path / str(every)).glob("base/*"))) == expected


def cut_in_half(path: Path) -> None:
    """What a full disk leaves."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut_in_half, Path.unlink])
def test_a_damaged_newest_state_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Whichever of its files is hit: the very state or the one before it, never another."""
    saved(tmp_path / "whole", 18, 27)
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "base" / "27").rglob("*") if p.is_file()]
    outcomes = []
    for i, file in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / file)
        found, seconds = resumed(copy)
        outcomes.append(int(found.step))
        assert outcomes[-1] in (18, 27)
        assert same(found, state_at(outcomes[-1]))
        assert seconds == outcomes[-1]
    assert 18 in outcomes


def test_a_state_that_reads_well_but_is_not_what_was_saved_is_passed_over(tmp_path: Path) -> None:
    """One bit of one array differs, in a checkpoint that orbax has no complaint about."""
    saved(tmp_path, 18)
    with ocp.CheckpointManager(tmp_path / "base") as manager:
        content = manager.restore(18, args=ocp.args.StandardRestore())
        assert content is not None
        changed = {name: np.array(leaf) for name, leaf in content["leaves"].items()}
        for leaf in changed.values():
            leaf.reshape(-1).view(np.uint8)[:1] ^= 1
        manager.save(27, args=ocp.args.StandardSave({**content, "leaves": changed}))
    assert {p.name for p in (tmp_path / "base").iterdir()} == {"18", "27"}
    found, _ = resumed(tmp_path)
    assert same(found, state_at(18))


def test_with_every_state_damaged_the_training_starts_anew(tmp_path: Path) -> None:
    """Instead of stopping, or going on with something else."""
    saved(tmp_path, 18, 27)
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.stat().st_size:
            flip(file)
    found, seconds = resumed(tmp_path)
    assert same(found, state_at(0))
    assert seconds == 0


def test_after_a_fallback_the_training_can_save_again(tmp_path: Path) -> None:
    """It comes by the damaged step a second time."""
    saved(tmp_path, 18, 27)
    for file in (tmp_path / "base" / "27").rglob("*"):
        if file.is_file() and file.stat().st_size:
            flip(file)
    saver = saved_states.StateSaver(tmp_path, 0.0)
    found, _ = saver.resume("base", state_at(0))
    assert int(found.step) == 18
    saver.save("base", state_at(27), 27.0)
    assert same(resumed(tmp_path)[0], state_at(27))
