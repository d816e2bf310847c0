"""A store that an earlier version wrote is reused: digests cover what changes numbers, not where code lives."""

import tarfile
from pathlib import Path

from bend_jax import storage
from tests.launching import ROOT, launch

# what wrote it, at commit 6fca639 on a CPU:
WORDS = [
    *("--config=configs/digits.py", "--config.backbone.widths=(4,4,4)", "--config.base.epochs=1"),
    *("--config.base.milestones=()", "--config.collect.k=4", "--config.collect.views=1"),
    *("--config.collect.subset=layer3.0.bn2", "--config.members=3", "--config.generate.nulls=gaussian"),
    *("--config.generate.bend.autoencoder.steps=4", "--config.generate.bend.autoencoder.segment=2"),
    *("--config.generate.bend.diffusion.steps=4", "--config.generate.bend.diffusion.segment=2"),
    "--config.generate.bend.diffusion.timesteps=100",
]


def test_a_store_of_an_earlier_version_is_reused(tmp_path: Path) -> None:
    """Every stage but bend's members, as bend computes others today, what reads them, and the report with what it
    measures itself; what is there stays. A stage that another jax has made carries a warning."""
    with tarfile.open(ROOT / "tests" / "fixtures" / "store-6fca639.tar.gz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    before = {path.name for path in (tmp_path / "run" / "store").iterdir()}
    (base,) = (tmp_path / "run" / "store").glob("base-*/manifest.json")
    manifest = storage.read_json(base)
    storage.write_json(base, {**manifest, "versions": {**manifest["versions"], "jax": "0.0.1"}})
    ended = launch(tmp_path / "streams", [*WORDS, f"--workdir={tmp_path / 'run'}"])
    assert ended.code == 0, ended.err
    reused = [line.split(":")[0] for line in ended.out.splitlines() if ": reused store/" in line]
    assert reused == ["base", "collect", "generate gaussian"]
    said = [line for line in ended.out.splitlines() if "warning: made with" in line and "jax 0.0.1, now " in line]
    assert [line.split(":")[0] for line in said] == ["base"]
    after = {path.name for path in (tmp_path / "run" / "store").iterdir()}
    assert before <= after
    assert {name.split("-")[0] for name in after - before} == {"generate", "evaluate", "memorisation", "report"}
    report = storage.read_json(tmp_path / "run" / "report" / "report.json")
    assert report["memorisation"]["held_out"] is None  # of four checkpoints
    assert report["memorisation"]["references"].keys() >= {"checkpoints", "base", "noise 0.05"}
