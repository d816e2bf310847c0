"""The whole road on a tiny configuration: what lies on disk, what is reused, what a kill or a fault does."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bend_jax import models, storage, subset
from bend_jax.data import splits
from bend_jax.evaluation import memorisation
from bend_jax.evaluation.memorisation import IMAGES, NOISES, landscape
from bend_jax.rng import stream
from bend_jax.run import context, memorisation_stage, pipeline
from bend_jax.run.config import parse
from bend_jax.run.progress import TrainingLog
from bend_jax.run.stage import StageContext
from bend_jax.training import SILENT
from tests import launching
from tests.problems import write_images
from tests.reports import check_schema, check_shares

ROOT = Path(__file__).parent.parent
CONFIG = launching.TINY
N, K, M, DIM, EPOCHS, PER_EPOCH = 300, 20, 10, 32, 12, 192 // 32
TINY = [
    f"--config={CONFIG}",
    f"--config.base.epochs={EPOCHS}",
    f"--config.collect.k={K}",
    f"--config.members={M}",
    "--config.generate.bend.autoencoder.steps=250",
    "--config.generate.bend.diffusion.steps=250",
    "--config.generate.bend.diffusion.segment=50",
]
BOOTSTRAP = ["--stages=collect", "--config.collect.name=bootstrap", "--config.collect.bootstrap.epochs=12"]
LINKS = ("base", "collect", "generate", "evaluate", "memorisation", "report")
NULLS = ("gaussian", "low_rank_gaussian", "identity")  # the default ones
GENERATED = tuple(f"generate {name}" for name in ("bend", *NULLS))
NAMES = ("base", "collect", *GENERATED, "evaluate", "memorisation", "report")
TIMEOUT = launching.TIMEOUT


class Ended(NamedTuple):
    """A work directory, and what the last command on it said."""

    workdir: Path
    code: int
    out: str
    err: str


class Killed(NamedTuple):
    """The last step that a killed training has saved, and what the run had said."""

    step: int
    out: str


def words_of(workdir: Path) -> list[str]:
    """What every command on a work directory says; the images lie beside it."""
    return [*TINY, f"--config.data.name=npz:{workdir.parent / 'images.npz'}", f"--workdir={workdir}"]


def launch(workdir: Path, *words: str, before: Callable[[], None] | None = None) -> Ended:
    """Run launch.py on the tiny setting to its end."""
    folder = workdir.with_name(f"{workdir.name}.streams")
    return Ended(workdir, *launching.launch(folder, [*words_of(workdir), *words], before=before))


def launch_alone(workdir: Path, *words: str) -> Ended:
    """The same in an interpreter of its own, as a user starts it."""
    command = [sys.executable, "launch.py", *words_of(workdir), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return Ended(workdir, done.returncode, done.stdout, done.stderr)


def kill(workdir: Path, stage: str, training: str, *words: str) -> Killed:
    """Run it, and kill it once that training has saved a state: inside its next segment."""
    folder = workdir.with_name(f"{workdir.name}.streams")
    words = (*words_of(workdir), "--config.compute.save_seconds=0", *words)
    states = f"store/.{stage}-*.partial/state/{training}/*"
    running = launching.begin(folder, list(words), before=launching.tell_starts)
    steps: list[int] = []
    give_up = time.monotonic() + TIMEOUT
    while not steps and not launching.has_ended(running) and time.monotonic() < give_up:
        steps = [int(p.name) for p in workdir.glob(states) if p.name.isdigit()]
        time.sleep(0.002)
    running.process.kill()
    ended = launching.finish(running)
    assert ended.code == -signal.SIGKILL, f"{stage} ended before a state of {training} was seen: {ended}"
    assert steps, f"no state of {training} was seen: {ended}"
    assert not any(storage.is_complete(p) for p in workdir.glob(f"store/{stage}-*"))
    return Killed(max(steps), ended.out)


def copy(source: Path, target: Path, *stages: str) -> Path:
    """A work directory with the links and these stages of another one, or all of them."""
    shutil.copytree(source, target, symlinks=True)
    for path in (target / "store").iterdir():
        if stages and path.name.split("-")[0] not in stages:
            shutil.rmtree(path)
    return target


# what the tests below look at


def finish(folder: Path) -> Ended:
    """The uninterrupted run."""
    return launch_alone(folder / "finished")


def interrupt(folder: Path) -> tuple[Ended, dict[str, int]]:
    """The same run killed in three stages, gone on with each time; and the steps where it was killed."""
    workdir = folder / "interrupted"
    words = ["--stages=base,collect,generate", "--config.generate.nulls="]
    trainings = {"base": "base", "trajectory": "collect", "diffusion": "generate"}
    killed = {name: kill(workdir, stage, name, *words) for name, stage in trainings.items()}
    ended = launch(workdir, *words, before=launching.tell_starts)
    out = "".join(k.out for k in killed.values()) + ended.out
    return ended._replace(out=out), {name: k.step for name, k in killed.items()}


def interrupt_bootstrap(folder: Path, finished: Path) -> tuple[Ended, Ended, Killed]:
    """Bootstraps from the same base: uninterrupted, killed and gone on with, and where it was killed."""
    whole = launch(copy(finished, folder / "bootstrap", "base"), *BOOTSTRAP)
    workdir = copy(finished, folder / "bootstrap_killed", "base")
    killed = kill(workdir, "collect", "bootstrap", *BOOTSTRAP)
    return whole, launch(workdir, *BOOTSTRAP, before=launching.tell_starts), killed


def change(folder: Path, finished: Path) -> tuple[Ended, Ended]:
    """Other settings on a moved copy, and then the first ones again."""
    workdir = copy(finished, folder / "changed")
    other = launch(workdir, "--stages=generate", "--config.members=8", "--config.generate.name=gaussian")
    return other, launch(workdir)


def seeds(folder: Path, finished: Path) -> Ended:
    """Two seeds, the first of which is there."""
    return launch(copy(finished, folder / "seeds"), "--seed=0,1")


def diverge_base(folder: Path) -> Ended:
    """A learning rate that overflows, of the base."""
    return launch(folder / "nan_base", "--config.base.lr=1e30")


def diverge_collect(folder: Path, finished: Path) -> Ended:
    """And one of the collector."""
    return launch(copy(finished, folder / "nan_collect", "base"), "--config.collect.trajectory.lr=1e30")


def damage(folder: Path, finished: Path) -> tuple[Ended, Ended, Ended]:
    """One flipped bit in the base; one in a null's members; and then --repair, as the error says, after that null's
    folder was swapped with another's as well."""
    workdir = copy(finished, folder / "damaged_base")
    flip(largest(workdir / "base" / "variables"))
    base = launch(workdir)
    workdir = copy(finished, folder / "damaged_null")
    null = stage_of(workdir, "generate gaussian")
    flip(largest(null / "members"))
    members = launch(workdir)
    other, spare = stage_of(workdir, "generate identity"), workdir / "spare"
    for source, target in ((null, spare), (other, null), (spare, other)):
        source.rename(target)
    return base, members, launch(workdir, "--repair")


def flip(path: Path) -> None:
    """Change one bit of the middle byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    """The file with the arrays."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def stage_of(workdir: Path, name: str) -> Path:
    """The directory of a stage that has no link."""
    paths = (workdir / "store").glob("*-*")
    return next(p for p in paths if storage.is_complete(p) and storage.read_manifest(p).get("name") == name)


class Runs(NamedTuple):
    """All commands of this file, two at a time; each is waited for where it is looked at.

    Those that do what the uninterrupted run does begin after it, and find its programs compiled.
    """

    finished: Future[Ended]
    interrupted: Future[tuple[Ended, dict[str, int]]]
    seeds: Future[Ended]
    bootstrap: Future[tuple[Ended, Ended, Killed]]
    changed: Future[tuple[Ended, Ended]]
    diverged_base: Future[Ended]
    diverged_collect: Future[Ended]
    damaged: Future[tuple[Ended, Ended, Ended]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Started once."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "images.npz")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(finish, folder)

        def later(work: Callable[[Path, Path], Any]) -> Future[Any]:
            return pool.submit(lambda: work(folder, first.result().workdir))

        diverged_base = pool.submit(diverge_base, folder)
        interrupted = later(lambda folder, _: interrupt(folder))
        others = map(later, (seeds, interrupt_bootstrap, change))
        yield Runs(first, interrupted, *others, diverged_base, *map(later, (diverge_collect, damage)))
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def finished(runs: Runs) -> Path:
    """The work directory of the uninterrupted run."""
    ended = runs.finished.result()
    assert ended.code == 0, ended.err
    assert ended.err == ""
    return ended.workdir


def tiny(folder: Path) -> Any:
    """The configuration as a script has it, on images in that folder."""
    raw = run_path(str(ROOT / CONFIG))["get_config"]()
    raw.data.name = f"npz:{write_images(folder / 'images.npz')}"
    return raw


def restore(path: Path) -> Any:
    """An orbax tree without a word of this package."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute())


def bytes_of(tree: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Name, dtype, shape and bytes of every array."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(p), str(x.dtype), x.shape, np.asarray(x).tobytes()) for p, x in leaves]


# what lies on disk


@pytest.mark.slow
def test_the_store_has_one_entry_a_stage_and_relative_links(finished: Path) -> None:
    """And nothing else: no hidden leftovers, no absolute paths."""
    assert {p.name for p in finished.iterdir()} == {"store", *LINKS}
    entries = {p.name for p in (finished / "store").iterdir()}
    assert all(
        re.fullmatch(r"(base|collect|generate|evaluate|memorisation|report)-[0-9a-f]{16}", name) for name in entries
    )
    assert sorted(name.split("-")[0] for name in entries) == sorted([*LINKS, *["generate"] * len(NULLS)])
    for name in LINKS:
        target = os.readlink(finished / name)
        assert target.startswith(f"store/{name}-")
        assert target.removeprefix("store/") in entries
    assert storage.read_manifest(finished / "generate")["name"] == "generate bend"


@pytest.mark.slow
def test_every_manifest_says_where_its_stage_comes_from(finished: Path) -> None:
    """Settings, inputs by digest, seconds, versions, seed, and a sum of every file."""
    by_name = {}
    for path in (finished / "store").iterdir():
        manifest = storage.verify(path)
        by_name[manifest["name"]] = (path, manifest)
        files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
        assert set(manifest["sha256"]) == files - {"manifest.json"}
        assert manifest["stage"] == path.name.split("-")[0]
        assert manifest["seed"] == 0
        assert manifest["seconds"] > 0
        assert manifest["versions"]["jax"] == jax.__version__
    for _, manifest in by_name.values():
        assert all(by_name[name][0].name.endswith(digest) for name, digest in manifest["inputs"].items())
    assert by_name["base"][1]["settings"]["base"]["epochs"] == EPOCHS
    assert by_name["collect"][1]["settings"]["settings"]["k"] == K
    assert by_name["generate gaussian"][1]["inputs"].keys() == {"base", "collect"}


@pytest.mark.slow
def test_arrays_are_read_with_orbax_alone(finished: Path) -> None:
    """base/variables, collect/checkpoints, generate/members and generate/stacked, with subset.json beside them."""
    variables = restore(finished / "base" / "variables")
    assert set(variables) == {"params", "batch_stats"}
    checkpoints, members = restore(finished / "collect" / "checkpoints"), restore(finished / "generate" / "members")
    for tree, rows in ((checkpoints, K), (members, M)):
        assert set(tree) == {"vectors"}
        assert tree["vectors"].shape == (rows, DIM)
        assert tree["vectors"].dtype == np.float32
        assert np.isfinite(tree["vectors"]).all()
        assert len(np.unique(tree["vectors"], axis=0)) == rows
    described = storage.read_json(finished / "collect" / "subset.json")
    assert described == storage.read_json(finished / "generate" / "subset.json")
    assert described["paths"] == [f"params.layer2.0.bn{i}.{leaf}" for i in (1, 2) for leaf in ("bias", "scale")]
    assert described["shapes"] == [[DIM // 4]] * 4
    stacked = restore(finished / "generate" / "stacked")
    assert [x.shape for x in jax.tree.leaves(stacked)] == [(M, DIM // 4)] * 4
    columns = [stacked["params"]["layer2"]["0"][f"bn{i}"][leaf] for i in (1, 2) for leaf in ("bias", "scale")]
    np.testing.assert_array_equal(np.concatenate(columns, axis=1), members["vectors"])


@pytest.mark.slow
def test_sbend_worked_out_again_by_hand(finished: Path) -> None:
    """Plain orbax, the model, and a count of labels give report.json's number, and the base's and best member's."""
    raw = tiny(finished.parent)
    test = splits.load(parse(raw).data).test
    images = jnp.asarray((test.images / 255 - raw.data.mean[0]) / raw.data.std[0], jnp.float32)
    net = models.build(raw.backbone.name, 4, widths=raw.backbone.widths, blocks=raw.backbone.blocks)
    variables, stacked = restore(finished / "base" / "variables"), restore(finished / "generate" / "stacked")

    def merge(tree: Any, other: Any, i: int) -> Any:
        if not isinstance(tree, dict):
            return other[i]
        return {name: merge(node, other[name], i) if name in other else node for name, node in tree.items()}

    run = jax.jit(lambda variables: jnp.argmax(jnp.asarray(net.apply(variables, images)), axis=1))
    labels = np.stack([run(merge(variables, stacked, i)) for i in range(M)])
    votes = np.stack([(labels == c).sum(axis=0) for c in range(4)], axis=1)
    report = storage.read_json(finished / "report" / "report.json")
    own = (labels == test.labels).mean(axis=1)
    saved = restore(finished / "evaluate" / "predictions")
    np.testing.assert_array_equal(saved["members"], labels)
    np.testing.assert_array_equal(saved["labels"], test.labels)
    assert (votes.argmax(axis=1) == test.labels).mean() == report["table"]["sbend"]
    assert own.max() == report["table"]["max"]
    assert own.mean() == pytest.approx(report["table"]["mean"], abs=1e-12)
    assert (labels == test.labels).any(axis=0).mean() == report["table"]["potential"]
    assert (np.asarray(run(variables)) == test.labels).mean() == report["votes"]["base"]["accuracy"]
    others = [part["table"]["sbend"] for part in report["generators"].values()]
    assert len({report["table"]["sbend"], report["votes"]["base"]["accuracy"], *others}) >= 4


@pytest.mark.slow
def test_the_curves_end_at_the_reports_figures(finished: Path) -> None:
    """All members, all images, and the bins of the calibration error; no other images were asked for."""
    result = storage.read_json(finished / "evaluate" / "result.json")
    found, table, votes = result["curves"], result["table"], result["votes"]
    last = {name: values[-1] for name, values in found["by_members"].items()}
    assert found["by_members"]["m"] == list(range(1, M + 1))
    assert last["sbend"] == table["sbend"]
    assert last["single"] == pytest.approx(table["mean"])
    assert last["mean"] == pytest.approx(votes["mean"]["accuracy"])
    assert last["nll"] == pytest.approx(votes["mean"]["nll"], rel=1e-5)
    assert {name: len(own["accuracy"]) for name, own in found["members"].items()} == {
        **{"checkpoints": K, **dict.fromkeys(("bend", *NULLS), M)},
    }
    assert max(found["members"]["checkpoints"]["accuracy"]) == pytest.approx(table["orig_max"])
    assert np.mean(found["members"]["bend"]["max_iou"]) == pytest.approx(result["novelty"]["max_iou"], rel=1e-5)
    for vote in ("base", "mean", "sbend"):
        assert found["risk_coverage"][vote]["risk"][-1] == pytest.approx(1 - votes[vote]["accuracy"])
        for when, key in (("before", "ece"), ("after", "ece_ts")):
            bins = zip(*found["reliability"][vote][when].values(), strict=True)
            gaps = [share * abs(right - sure) for sure, right, share in bins if share]
            assert sum(gaps) == pytest.approx(votes[vote][key], abs=1e-5)
    pairs = {f"{vote}_vs_{name}" for vote in ("sbend", "mean", "pool") for name in ("base", *NULLS)}
    assert set(result["differences"]) == pairs
    assert result["vote"] in ("mean", "pool")
    gap = result["differences"]["sbend_vs_base"]["accuracy"]
    assert gap["mean"] == pytest.approx(table["sbend"] - votes["base"]["accuracy"])
    assert gap["low"] <= gap["mean"] <= gap["high"]
    assert result["shift"] is None


@pytest.mark.slow
def test_what_tells_copies_from_new_networks_is_measured(finished: Path) -> None:
    """A fifth of the checkpoints is held out; copies are told; the references are nets that were run; of the planes,
    one vector's accuracy is that of its net."""
    found = storage.read_json(finished / "report" / "report.json")
    own, result = found["memorisation"], storage.read_json(finished / "memorisation" / "result.json")
    assert all(own[key] == result[key] for key in own)
    assert (own["fitted_to"], own["held_out"]) == (16, 4)
    assert set(own["copying"]) == {"bend", *NULLS, "base"}
    rows = own["copying"]
    assert rows["identity"]["nearest"] == 0
    assert min(rows, key=lambda name: rows[name]["z_u"]) == "identity"
    assert len({row["nearest_held_out"] for row in rows.values()}) == 1
    assert set(own["references"]) == {"checkpoints", "base", "average16", *(f"noise {x:g}" for x in NOISES)}
    assert own["references"]["checkpoints"]["accuracy"] == pytest.approx(found["table"]["orig_mean"])
    assert own["references"]["checkpoints"]["nearest"] == pytest.approx(found["novelty"]["leave_one_out"])
    assert own["references"]["base"]["accuracy"] == pytest.approx(found["votes"]["base"]["accuracy"])
    nulls = {name: part["novelty"] for name, part in found["generators"].items()}
    assert (nulls["identity"]["disagreement"], nulls["identity"]["max_iou"]) == (0, 1)
    assert found["novelty"]["disagreement_p10"] <= found["novelty"]["disagreement"]
    labels, checkpoints, members = labels_of(finished)
    vectors = [restore(finished / name)["vectors"] for name in ("collect/checkpoints", "generate/members")]
    which = np.linalg.norm(vectors[1][:, None] - vectors[0][None], axis=2).argmin(axis=1)
    apart = (members != checkpoints[which]).mean(axis=1)
    assert found["novelty"]["disagreement"] == pytest.approx(apart.mean())
    assert found["novelty"]["disagreement_p10"] == pytest.approx(np.percentile(apart, 10))
    arrays = restore(finished / "memorisation" / "figures")
    assert arrays["plane"]["at_members"].shape == (M, 2)
    assert arrays["plane"]["accuracy"].max() <= 1
    assert len(np.unique(arrays["plane"]["accuracy"])) > 3
    assert (arrays["boundaries"]["members"] != arrays["boundaries"]["checkpoints"]).mean() == own["boundaries"]
    assert len(np.unique(arrays["boundaries"]["members"])) > 1
    assert labels.shape == (N,)
    raw = tiny(finished.parent)
    validation = splits.load(parse(raw).data).validation
    assert len(validation.labels) < IMAGES
    images = jnp.asarray((validation.images / 255 - raw.data.mean[0]) / raw.data.std[0], jnp.float32)
    net = models.build(raw.backbone.name, 4, widths=raw.backbone.widths, blocks=raw.backbone.blocks)
    chosen = subset.from_json(storage.read_json(finished / "collect" / "subset.json"))
    base = restore(finished / "base" / "variables")
    flat = np.asarray(subset.flatten(chosen, base))[None]
    plane = landscape({"checkpoints": vectors[0], "members": vectors[1], "base": flat})
    assert plane is not None
    for i in (0, 60, 113):
        logits = net.apply(subset.insert(chosen, base, jnp.asarray(plane.vectors[i])), images)
        accuracy = (np.asarray(jnp.asarray(logits)).argmax(axis=1) == validation.labels).mean()
        assert arrays["plane"]["accuracy"].ravel()[i] == pytest.approx(accuracy, abs=1.5 / len(images))


def test_a_held_out_fit_has_the_knob_that_was_tuned_and_enough_checkpoints(tmp_path: Path) -> None:
    """A Gaussian of scale 0 is a constant; means of 16 of the 10 checkpoints that are left are not to be had."""
    raw = tiny(tmp_path)
    raw.generate.name, raw.generate.nulls, raw.evaluate.held_out = "gaussian", "average16", 0.5
    raw.collect.k = 20
    config = parse(raw)
    s = context.prepare(config, "tiny", 0, tmp_path, splits.load(config.data))
    vectors = np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32)
    storage.save_tree(tmp_path / "variables", {"params": {"x": np.zeros(1)}})
    found = {}
    for scale in (0.0, 1.0):
        storage.write_json(tmp_path / "result.json", {"knob": scale})
        inputs = dict.fromkeys(("base", "generate gaussian", "generate average16"), tmp_path)
        task = StageContext(inputs, tmp_path, SILENT, TrainingLog({}, {}, {}, {}))
        found[scale] = memorisation_stage._copying(s, task, {"checkpoints": vectors, "base": vectors[:1]})
        assert (found[scale]["fitted_to"], found[scale]["held_out"]) == (10, 10)
        assert set(found[scale]["copying"]["average16"].values()) == {None}
    split = memorisation.split(vectors, 0.5, stream(0, "memorisation"))
    assert split is not None
    constant = memorisation.HeldOut(*split, np.tile(split[0].mean(axis=0), (raw.members, 1)))
    own = {scale: rows["copying"]["gaussian"] for scale, rows in found.items()}
    assert own[0.0]["nearest"] == pytest.approx(memorisation.copying(constant)["nearest"], rel=1e-5)
    assert own[1.0]["nearest"] > 1.1 * own[0.0]["nearest"]


def labels_of(workdir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true labels of the test images, and those that checkpoints and members give."""
    found = restore(workdir / "evaluate" / "predictions")
    return found["labels"], found["checkpoints"], found["members"]


@pytest.mark.slow
def test_the_latents_of_checkpoints_members_and_noise_are_there(finished: Path) -> None:
    """Of bend; the checkpoints' are white, the noised ones lie about them; a generator without latents has none."""
    latents = restore(finished / "generate" / "latents")
    width = latents["checkpoints"].shape[1]
    assert {name: x.shape for name, x in latents.items()} == {
        **{"checkpoints": (K, width), "members": (M, width), "noised": (K, width)},
    }
    np.testing.assert_allclose(latents["checkpoints"].std(axis=0), 1, atol=1e-2)
    assert not (stage_of(finished, "generate gaussian") / "latents").exists()


@pytest.mark.slow
def test_the_report_is_whole(finished: Path) -> None:
    """Every promised key, shares of 300 images, what was asked for; report.md beside it."""
    report = storage.read_json(finished / "report" / "report.json")
    check_schema(report, set(NULLS))
    check_shares(report, N, M)
    assert [report[key] for key in ("task", "seed", "k", "m", "dim")] == ["tiny", 0, K, M, DIM]
    assert report["config"] == CONFIG
    assert all(value is None or value > 0 for key, value in report["cost"].items() if key.startswith("t_"))
    assert report["novelty"]["leave_one_out"] > 0
    text = (finished / "report" / "report.md").read_text()
    assert text.startswith("# tiny\n")
    assert f"{100 * report['table']['sbend']:.2f}" in text


@pytest.mark.slow
def test_the_terminal_shows_the_table_and_where_everything_is(runs: Runs, finished: Path) -> None:
    """A line a stage, Table 3, the work directory."""
    out = runs.finished.result().out
    for name in NAMES:
        assert re.search(rf"^{name}: .*s\)$", out, re.MULTILINE)
    report = storage.read_json(finished / "report" / "report.json")
    assert re.search(rf"^bend +{100 * report['table']['sbend']:.2f} ", out, re.MULTILINE)
    assert f"Everything is in {finished}" in out


# what is reused


@pytest.mark.slow
def test_other_settings_make_new_directories_and_keep_the_old(runs: Runs, finished: Path) -> None:
    """Only what depends on them; the links point at the new ones."""
    other, again = runs.changed.result()
    assert (other.code, other.err) == (0, "")
    before = {p.name for p in (finished / "store").iterdir()}
    new = {p for p in (other.workdir / "store").iterdir() if p.name not in before}
    assert {storage.verify(p)["name"] for p in new} == {f"generate {name}" for name in NULLS}
    assert "generate gaussian: 8 members" in other.out
    assert all(restore(p / "members")["vectors"].shape == (8, DIM) for p in new)
    for name in before:
        assert storage.verify(again.workdir / "store" / name) == storage.verify(finished / "store" / name)


@pytest.mark.slow
def test_the_same_settings_reuse_every_stage(runs: Runs, finished: Path) -> None:
    """In a work directory that was moved, after another run in it; the links are back and the table is the same."""
    _, again = runs.changed.result()
    assert (again.code, again.err) == (0, "")
    for name in NAMES:
        assert re.search(rf"^{name}: reused store/{name.split()[0]}-[0-9a-f]+$", again.out, re.MULTILINE)
    assert [os.readlink(again.workdir / name) for name in LINKS] == [os.readlink(finished / name) for name in LINKS]
    first = runs.finished.result().out
    assert again.out.split("\nEnsemble ")[1].split("Everything")[0] == first.split("\nEnsemble ")[1].split("Every")[0]
    assert len(list((again.workdir / "store").iterdir())) == len(list((finished / "store").iterdir())) + len(NULLS)


# kills


@pytest.mark.slow
def test_a_run_killed_in_three_stages_ends_with_the_same_bytes(runs: Runs, finished: Path) -> None:
    """Base variables, checkpoints and members; each training goes on where it was saved."""
    ended, killed = runs.interrupted.result()
    assert ended.code == 0, ended.err
    last = {"base": EPOCHS * PER_EPOCH, "trajectory": K * PER_EPOCH, "diffusion": 250}
    for name, step in killed.items():
        begun = [int(x) for x in re.findall(rf"^resumed {name} at (\d+)$", ended.out, re.MULTILINE)]
        assert len(begun) == 2  # the first time from step 0
        assert begun[0] == 0 < step <= begun[1] <= last[name]
    for name in ("base/variables", "collect/checkpoints", "generate/members", "generate/stacked"):
        assert bytes_of(restore(ended.workdir / name)) == bytes_of(restore(finished / name))
    names = {p.name for p in (ended.workdir / "store").iterdir()}
    assert names == {os.readlink(finished / name).removeprefix("store/") for name in LINKS[:3]}


@pytest.mark.slow
def test_killed_bootstraps_end_with_the_same_bytes(runs: Runs, finished: Path) -> None:
    """The k fine-tunings side by side."""
    whole, again, killed = runs.bootstrap.result()
    assert whole.code == 0, whole.err
    assert again.code == 0, again.err
    resumed = re.findall(r"^resumed bootstrap at (\d+)$", again.out, re.MULTILINE)
    assert len(resumed) == 1
    assert 0 < killed.step <= int(resumed[0]) <= 12 * PER_EPOCH
    vectors = [restore(e.workdir / "collect" / "checkpoints")["vectors"] for e in (whole, again)]
    assert vectors[0].shape == (K, DIM)
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert os.readlink(whole.workdir / "collect") == os.readlink(again.workdir / "collect")
    assert os.readlink(whole.workdir / "collect") != os.readlink(finished / "collect")
    assert subset.from_json(storage.read_json(again.workdir / "collect" / "subset.json")).dim == DIM


@pytest.mark.slow
def test_metrics_of_a_killed_run_are_those_of_one_that_was_not(runs: Runs, finished: Path) -> None:
    """A line for every segment, none lost and none twice; result.json has them as curves."""
    ended, _ = runs.interrupted.result()
    last = {"base": {"base": EPOCHS * PER_EPOCH}, "collect": {"trajectory": K * PER_EPOCH}}
    last["generate"] = {"autoencoder": 250, "diffusion": 250}
    for stage, trainings in last.items():
        lines = [json.loads(x) for x in (finished / stage / "metrics.jsonl").read_text().splitlines()]
        again = [json.loads(x) for x in (ended.workdir / stage / "metrics.jsonl").read_text().splitlines()]
        timeless = [[{**x, "seconds": 0, "rate": 0} for x in own] for own in (lines, again)]
        assert timeless[0] == timeless[1]
        curves = storage.read_json(finished / stage / "result.json")["training"]
        assert curves.keys() == trainings.keys()
        for name, steps in trainings.items():
            own = [x for x in lines if x["training"] == name]
            assert own[-1]["steps"] == steps
            assert own[-1]["step"] == steps or name == "diffusion"  # which may stop early
            assert curves[name]["step"] == [x["step"] for x in own]
            assert curves[name]["loss"] == [x["loss"] for x in own]
    assert storage.read_json(finished / "evaluate" / "result.json")["training"] == {}


# faults


@pytest.mark.slow
def test_nan_stops_with_one_line_and_publishes_nothing(runs: Runs) -> None:
    """The stage, the step and what to try; what came before stays."""
    base, collect = runs.diverged_base.result(), runs.diverged_collect.result()
    for ended, stage, knob in ((base, "base", "base.lr"), (collect, "collect", "collect.trajectory.lr")):
        assert ended.code == 1, ended.err
        assert "Traceback" not in ended.err
        assert len(ended.err.splitlines()) == 1
        assert f"{stage} stopped" in ended.err
        assert re.search(r"NaN or Inf in the (loss|gradients) at step \d+", ended.err)
        assert f"try a smaller {knob}" in ended.err
        assert list(ended.workdir.glob(f"store/{stage}-*")) == []
    assert not os.path.lexists(base.workdir / "base")
    assert "base: reused" in collect.out


@pytest.mark.slow
def test_a_flipped_bit_in_the_store_stops_the_next_run(runs: Runs, finished: Path) -> None:
    """One line with the file and the remedy; nothing is computed from it; the remedy helps."""
    base, members, again = runs.damaged.result()
    for ended, path in ((base, base.workdir / "base"), (members, stage_of(again.workdir, "generate gaussian"))):
        assert ended.code == 1
        assert "Traceback" not in ended.err
        assert len(ended.err.splitlines()) == 1
        assert re.search(rf"store/{path.resolve().name}/\S+ is damaged", ended.err)
        assert f"delete {path.resolve()} to have it computed again, or add --repair" in ended.err
    before = {p.name for p in (finished / "store").iterdir()}
    assert {p.name for p in (base.workdir / "store").iterdir()} == before
    assert "reused" not in base.out  # a note on the data alone comes before the store is read
    assert (again.code, again.err) == (0, "")
    for name in ("gaussian", "identity"):
        assert re.search(rf"^generate {name}: \d+ members", again.out, re.MULTILINE)
    assert len(re.findall("^moved store/generate-", again.out, re.MULTILINE)) == 2
    assert len(re.findall(": reused store/", again.out)) == len(before) - 2
    assert {p.name for p in (again.workdir / "store").iterdir()} == before
    gaussian = [stage_of(w, "generate gaussian") / "members" for w in (again.workdir, finished)]
    assert bytes_of(restore(gaussian[0])) == bytes_of(restore(gaussian[1]))


# seeds


@pytest.mark.slow
def test_several_seeds_make_one_report(runs: Runs, finished: Path) -> None:
    """Mean and sd of the two; the stages of the seed that was there are reused."""
    ended = runs.seeds.result()
    assert (ended.code, ended.err) == (0, "")
    report = storage.read_json(ended.workdir / "report" / "report.json")
    check_schema(report, set(NULLS))
    assert report["seed"] == [0, 1]
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    assert report["runs"][0] == storage.read_json(finished / "report" / "report.json")
    for run in report["runs"]:
        check_shares(run, N, M)
    a, b = (run["table"]["sbend"] for run in report["runs"])
    assert a != b
    assert report["table"]["sbend"] == pytest.approx((a + b) / 2)
    assert report["sd"]["table"]["sbend"] == pytest.approx(abs(a - b) / np.sqrt(2))
    first, second = ended.out.split("seed 0\n")[1].split("seed 1\n")
    assert first.count(": reused store/") == len(NAMES)
    assert second.count(": reused store/") == 0
    assert re.search(r"^bend +\d+\.\d\d ± \d+\.\d\d ", ended.out, re.MULTILINE)
    assert " ± " in (ended.workdir / "report" / "report.md").read_text()
    entries = [storage.verify(p) for p in (ended.workdir / "store").iterdir()]
    assert sum(e.get("seed") == 0 for e in entries) == sum(e.get("seed") == 1 for e in entries) == len(NAMES)
    assert storage.verify(ended.workdir / "report")["seeds"] == [0, 1]


def test_the_images_of_bn_statistics_are_part_of_what_they_decide(tmp_path: Path) -> None:
    """Of the average in the evaluation, also where the generator itself measures none; and only where there are any."""
    raw = tiny(tmp_path)
    raw.collect.k, raw.generate.name, raw.generate.nulls = 2, "identity", ""
    dataset = splits.load(parse(raw).data)
    for pattern, changed in (("*", {"evaluate", "memorisation", "report"}), ("fc", set())):
        raw.collect.subset = pattern
        plans = []
        for raw.generate.statistics in (64, 128):
            plans.append(pipeline.plan(context.prepare(parse(raw), "tiny", 0, tmp_path, dataset)))
        assert {name for name in plans[0] if plans[0][name].digest != plans[1][name].digest} == changed


def test_which_generator_is_the_main_one_is_part_of_the_evaluation(tmp_path: Path) -> None:
    """The same generators in other roles make another report; all that is generated is shared."""
    raw = tiny(tmp_path)
    plans = []
    dataset = None
    for main, nulls in (("bend", "gaussian,identity"), ("gaussian", "bend,identity")):
        raw.generate.name, raw.generate.nulls = main, nulls
        config = parse(raw)
        dataset = dataset or splits.load(config.data)
        plans.append(pipeline.plan(context.prepare(config, "tiny", 0, tmp_path, dataset)))
    same = {name for name in plans[0] if plans[0][name].digest == plans[1][name].digest}
    assert same == {"base", "collect", "generate bend", "generate gaussian", "generate identity"}
