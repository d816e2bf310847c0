"""What lies on disk is bound to what it says it is: manifests, folders, files that were put beside them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from bend_jax import links, storage
from bend_jax.checks import SettingsError
from bend_jax.report import side_by_side
from bend_jax.run import driver, pipeline
from tests.launching import launch

ONE, OTHER = "0123456789abcdef", "fedcba9876543210"


def build(store: Path, digest: str = ONE, value: float = 0.5, **said: Any) -> Path:
    """A small stage."""
    with storage.building(store, "generate", digest, {"settings": {"name": "bend", "m": 3}, **said}) as partial:
        (partial.output / "members").mkdir()
        storage.write_json(partial.output / "members" / "result.json", {"accuracy": value})
    return storage.entry(store, "generate", digest)


def damage(path: Path, **expected: Any) -> str:
    """What `verify` finds."""
    with pytest.raises(storage.DamagedError) as error:
        storage.verify(path, expected=expected)
    return str(error.value)


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    """All of them, one at a time."""
    path = build(tmp_path, name="generate bend", seed=0, seconds=0.1234567890123, inputs={"base": OTHER})
    file = path / "manifest.json"
    whole = file.read_bytes()
    missed = []
    for i in range(8 * len(whole)):
        content = bytearray(whole)
        content[i // 8] ^= 1 << i % 8
        file.write_bytes(content)
        try:
            storage.read_manifest(path)
        except storage.DamagedError:
            continue
        missed.append(i)
    assert not missed
    assert len(whole) > 500


def test_a_manifest_laid_out_otherwise_is_the_same(tmp_path: Path) -> None:
    """Its sum is of the content; whoever formats it by a tool has damaged nothing."""
    path = build(tmp_path)
    content = storage.read_json(path / "manifest.json")
    (path / "manifest.json").write_text(json.dumps(content, sort_keys=True))
    assert storage.verify(path)["settings"] == {"name": "bend", "m": 3}


def test_a_manifest_from_before_sums_holds_what_it_held_then(tmp_path: Path) -> None:
    """Without digest and sum it is taken; with a word that no such manifest had it is not."""
    path = build(tmp_path)
    content = storage.read_json(path / "manifest.json")
    del content["sum"], content["digest"]
    (path / "manifest.json").write_text(json.dumps(content))
    storage.verify(path, expected={"stage": "generate", "digest": ONE})
    (path / "manifest.json").write_text(json.dumps({**content, "suM": "0"}))
    assert "its sum is not that of its content" in damage(path)


def test_swapped_folders_are_told_apart(tmp_path: Path) -> None:
    """By the digest, and by what a run asks of a stage: its name, settings, seed and inputs."""
    said = {"name": "generate bend", "seed": 0, "inputs": {"base": OTHER}}
    one, other = build(tmp_path, **said), build(tmp_path, OTHER, 0.9, **{**said, "name": "generate gaussian"})
    assert not storage.damaged(tmp_path)
    spare = tmp_path.parent / "spare"
    for source, target in ((one, spare), (other, one), (spare, other)):
        source.rename(target)
    found = storage.damaged(tmp_path)
    assert list(found) == [one, other]
    assert f"{one} holds another stage: digest " in found[one]
    for key, value in {**said, "settings": {"name": "bend", "m": 4}}.items():
        wanted = {"seed": 1, "inputs": {"base": ONE}}.get(key, value)
        assert f"holds another stage: {key} " in damage(one, **{key: wanted})


def test_edited_files_cannot_hide(tmp_path: Path) -> None:
    """A result beside emptied sums, a file too much, a link in place of a file, of a folder, of the manifest."""
    path = build(tmp_path / "store")
    file, manifest = path / "members" / "result.json", path / "manifest.json"
    whole = manifest.read_text()
    content = {**json.loads(whole), "sha256": {}}
    del content["sum"], content["digest"]
    manifest.write_text(json.dumps(content))
    file.write_text('{"accuracy": 0.9999}')
    assert f"{file} does not belong here: move it away" in damage(path)
    shutil.rmtree(path)

    path = build(tmp_path / "store")
    (path / "members" / ".DS_Store").write_bytes(b"of a file manager")
    storage.verify(path)
    for place in (path / "notes.txt", path / "members" / "more.npy"):
        place.write_text("mine")
        assert f"{place} does not belong here" in damage(path)
        place.unlink()
    outside = tmp_path / "result.json"
    shutil.move(file, outside)
    file.symlink_to(outside)
    assert f"{file} is a link" in damage(path)
    file.unlink()
    shutil.move(outside, file)
    (path / "extra").symlink_to(tmp_path)
    assert f"{path / 'extra'} is a link" in damage(path)
    (path / "extra").unlink()
    shutil.move(manifest, outside)
    manifest.symlink_to(outside)
    assert f"{manifest} is a link" in damage(path)


def test_a_sum_of_a_file_elsewhere_is_no_sum(tmp_path: Path) -> None:
    """Names that lead out of the folder, with the right SHA-256 and a right sum of the manifest."""
    path = build(tmp_path / "store")
    outside = tmp_path / "other.json"
    shutil.copy(path / "members" / "result.json", outside)
    for name in ("../../other.json", str(outside)):
        content = storage.read_manifest(path)
        content["sha256"][name] = content["sha256"]["members/result.json"]
        storage.write_json(path / "manifest.json", {**content, "sum": storage._sum(content)})
        assert "leads out of it" in damage(path)
        content["sha256"].pop(name)
        storage.write_json(path / "manifest.json", {**content, "sum": storage._sum(content)})
    storage.verify(path)


def test_a_comparison_reads_whole_reports_alone(tmp_path: Path) -> None:
    """One without a manifest, and one that was edited."""
    for name in ("a", "b"):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "report.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"a/report has no manifest\.json"):
        side_by_side.read([str(tmp_path / "a"), str(tmp_path / "b")])
    shutil.rmtree(tmp_path / "a")
    with storage.building(tmp_path / "a" / "store", "report", ONE, {}) as partial:
        (partial.output / "report.json").write_text("{}")
    links.link(tmp_path / "a", "report", storage.entry(tmp_path / "a" / "store", "report", ONE))
    (tmp_path / "a" / "report" / "report.json").write_text('{"votes": 1}')
    with pytest.raises(storage.DamagedError, match=r"report\.json is damaged"):
        side_by_side.read([str(tmp_path / "a"), str(tmp_path / "b")])


def test_what_is_no_stage_is_left_alone(tmp_path: Path) -> None:
    """A user's own file or folder in the store; and a damaged stage is set aside with everything in it."""
    workdir = tmp_path / "run"
    path = build(workdir / "store")
    (workdir / "store" / "my-notes").mkdir()
    (workdir / "store" / "todo.txt").write_text("mine")
    assert not storage.damaged(workdir / "store")
    (path / "notes.txt").write_text("mine too")
    driver.set_damaged_aside(workdir)
    assert not path.exists()
    (kept,) = (workdir / "damaged").glob(f"*/{path.name}/notes.txt")
    assert kept.read_text() == "mine too"
    assert {p.name for p in (workdir / "store").iterdir()} == {"my-notes", "todo.txt"}


def test_verify_says_what_is_wrong_with_a_store(tmp_path: Path) -> None:
    """Exit code 0 and a line for a whole one, 1 and all that is wrong for another, 2 for no store."""
    build(tmp_path / "run" / "store")
    (tmp_path / "run" / "store" / ".generate-0.partial").mkdir()  # of a run that goes on
    whole = launch(tmp_path / "one", [f"--verify={tmp_path / 'run'}"])
    assert (whole.code, whole.err) == (0, "")
    assert "1 stages in" in whole.out
    os.remove(tmp_path / "run" / "store" / f"generate-{ONE}" / "members" / "result.json")
    broken = launch(tmp_path / "two", [f"--verify={tmp_path / 'run'}"])
    assert broken.code == 1
    assert "1 of 1 stages in" in broken.err
    assert "result.json is missing" in broken.err
    none = launch(tmp_path / "three", [f"--verify={tmp_path}"])
    assert none.code == 2
    assert "there is no folder" in none.err
    more = launch(tmp_path / "four", [f"--verify={tmp_path / 'run'}", "--seed=1"])
    assert more.code == 2
    assert "takes no other flag; got --seed" in more.err


def test_digests_cover_how_jax_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing where all is as it comes, so that older stores are reused; else what differs."""
    assert pipeline.arithmetic() == {}
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        assert pipeline.arithmetic() == {"jax": {"enable_x64": True, "default_matmul_precision": "highest"}}
    with jax.default_prng_impl("rbg"):
        assert pipeline.arithmetic() == {"jax": {"default_prng_impl": "rbg"}}
    flags = "--xla_gpu_deterministic_ops=true"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x {flags}")
    assert pipeline.arithmetic() == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert pipeline.arithmetic() == {"jax": {"xla_flags": [flags]}}
