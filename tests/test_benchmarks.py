"""The benchmarks' formulas, known by hand, and that each of them understands its command line. Nothing is timed."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import all as every
from benchmarks import (
    check,
    collect,
    common,
    compilation,
    cost,
    generate,
    last_stages,
    members,
    peers,
    published,
    train,
    votes,
)
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.trajectory import Trajectory
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.operations import Operations, flops

# a suffix of a tenth of the forward pass; a step of the base is three passes, one of the suffix two of its own
OPS = Operations(forward=10.0, step=30.0, suffix=1.0, suffix_step=2.0, parts=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "script", [members, collect, generate, published, train, cost, compilation, check, every, votes, last_stages, peers]
)
def test_each_script_tells_its_flags(script, capsys) -> None:
    """`--help` ends well."""
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_operations_are_counted_for_the_cpu(monkeypatch) -> None:
    """2 * 3 * 4 * 5 of a product, from arrays as from shapes; XLA counts nothing for a plugin's device, so the program
    is lowered for the CPU whatever the default device is, and compiled where there is no CPU to lower for."""
    x, y = jnp.ones((3, 4)), jax.ShapeDtypeStruct((4, 5), jnp.float32)
    asked: list[str] = []
    local = jax.local_devices
    monkeypatch.setattr(jax, "local_devices", lambda **how: asked.append(how["backend"]) or local(**how))
    assert flops(jnp.dot, x, y) == pytest.approx(120, abs=1)
    assert asked == ["cpu"]

    def none(**how):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", none)
    assert flops(jnp.dot, x, y) == pytest.approx(120, abs=1)


def test_floor_of_the_members() -> None:
    """100 members: a pass, and 99 more suffixes of a tenth of it."""
    assert members.floor(OPS, 100) == pytest.approx(1 + 9.9)
    assert members.floor(OPS, 1) == 1.0


def test_floors_of_the_collectors() -> None:
    """R views of the frozen part (0.3 epochs each), and a fifteenth of an epoch for each epoch of the subset."""
    trajectory, bootstrap = Trajectory(k=200, views=4), Bootstrap(k=200, views=4, epochs=2)
    assert collect.work("trajectory cached", 200, trajectory) == (4, 200)
    assert collect.work("trajectory streamed", 200, trajectory) == (200, 200)
    assert collect.work("bootstrap cached", 200, bootstrap) == (4, 400)
    assert collect.work("bootstrap streamed", 200, bootstrap) == (2, 400)  # all members read the same pass
    assert collect.floor_epochs(OPS, 4, 200) == pytest.approx(4 * 0.3 + 200 / 15)
    assert collect.least_bytes(cache=400, views=4, reads=200) == 400 + 200 * 100


def test_bytes_of_an_autoencoders_step() -> None:
    """Linear maps 12 <-> 2 beside four layers of 3: 8 times 4 bytes a parameter, and the vectors."""
    settings = Autoencoder(kind="mlp", latent=2, hidden=3)
    halves = [
        12 * 2 + (12 * 3 + 3) + 2 * (3 * 3 + 3) + (3 * 2 + 2),
        2 * 12 + (2 * 3 + 3) + 2 * (3 * 3 + 3) + (3 * 12 + 12),
    ]
    assert generate.iteration_bytes(settings, 5, 12) == 8 * 4 * sum(halves) + 4 * 5 * 12


def test_break_even_counts_inference() -> None:
    """(100 + 9 + 1 + 0 + 1) / (100 + 2 - 1 / 100 - 0.5)."""
    t = {"t_pre": 100.0, "t_collect": 9.0, "t_autoencoder": 1.0, "t_diffusion": 0.0, "t_sample": 1.0}
    t |= {"infer_prefix": 1.0, "infer_base": 2.0, "infer_member": 0.5}
    assert cost.break_even(t, 100) == pytest.approx(111 / 101.49)
    assert cost.break_even({**t, "infer_member": 200.0}, 100) is None


def test_a_row_of_the_cost_table() -> None:
    """Of res18_cifar10: 100 epochs of 45,000 images, 4 views cached, 200 epochs of the subset, 602 voters."""
    one = {"image": 1.0, "fill": 0.5, "step": 0.01, "forward": 0.4, "member": 0.1, "compile": 0.0}
    row = cost.extrapolated("res18_cifar10", {**one, "t_autoencoder": 1.0, "t_diffusion": 2.0, "t_sample": 3.0})
    assert row["t_pre"] == 100 * 45_000
    assert row["t_collect"] == pytest.approx(45_000 * (4 * 0.5 + 200 * 0.01))
    assert row["t_evaluate"] == pytest.approx(15_000 * (0.3 + 602 * 0.1))


def test_seconds_of_nested_compilations_count_once() -> None:
    """[1, 2] lies in [0, 3], [2.5, 4] overlaps it, [9, 12] is cut at the end."""
    assert common.union([(9.0, 12.0), (0.0, 3.0), (1.0, 2.0), (2.5, 4.0)], 0.0, 10.0) == pytest.approx(5.0)
    assert common.union([(0.0, 3.0)], 1.0, 2.0) == pytest.approx(1.0)


def test_ratio_is_of_the_rounds() -> None:
    """The median of 2, 3 and 1/2, whatever the load of a round."""
    assert common.ratio({"a": [2.0, 30.0, 1.0], "b": [1.0, 10.0, 2.0]}, "a", "b") == 2.0


def test_share_of_the_peak(monkeypatch) -> None:
    """Half of an H100's 989.4 TFLOP/s; a device that is not in the table has none."""

    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert train.share(1e9, 494_700, "bfloat16") == pytest.approx(0.5)
    Device.device_kind = "cpu"
    assert train.share(1e9, 494_700, "bfloat16") is None


def test_results_are_json(tmp_path) -> None:
    """With the machine's description; a file appears whole."""
    args = argparse.Namespace(out=tmp_path / "new" / "members.json", size="tiny", repeats=1)
    common.write(args, {"rows": [1]})
    (path,) = args.out.parent.iterdir()
    content = json.loads(path.read_text())
    assert content["rows"] == [1]
    assert {"cpu", "cores", "jax", "device"} <= content["machine"].keys()


def test_the_last_stages_halves_scale_each_other() -> None:
    """The half with right labels gives the other a temperature below 1, the half with half of them wrong one above;
    gains are paired differences from the base."""
    logits = np.log(np.array([[0.9, 0.1]] * 40, np.float32))[None]
    first = np.arange(40) < 20
    labels = np.where(first, 0, np.arange(40) % 2).astype(np.int32)
    found = last_stages.scaled_votes(logits, labels, first)
    assert found[~first, 0].min() > 0.95
    np.testing.assert_allclose(found[first, 0], 0.5, atol=0.05)
    row = last_stages.row("x", found, np.exp(logits[0]), labels)
    index = np.arange(40)
    assert row["accuracy"] == np.mean(labels == 0)
    assert row["nll_gain"]["mean"] == pytest.approx(
        np.mean(-np.log(found[index, labels])) + np.mean(logits[0, index, labels])
    )
    assert row["nll_gain"]["low"] < row["nll_gain"]["mean"] < row["nll_gain"]["high"]
    assert list(row["gain"].values()) == [0, 0, 0]


def test_votes_from_logits(tmp_path) -> None:
    """Two networks that are one: pool, mean and either alone are the same; and the halves have every class alike."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    first = votes.halves(labels, 0)
    assert np.bincount(labels[first]).tolist() == [10] * 4
    logits = rng.normal(size=(2, 80, 4)) + 2 * np.eye(4)[labels]
    np.savez(tmp_path / "logits.npz", labels=labels, a=logits, b=logits)
    votes.main([str(tmp_path / "logits.npz"), "--views=1", f"--out={tmp_path / 'votes.json'}"])
    found = json.loads((tmp_path / "votes.json").read_text())
    assert found["networks"] == ["a", "b"]
    scaled = [row["nll"] for name, row in found["votes"].items() if "T = 1" not in name]
    assert scaled == pytest.approx([scaled[0]] * 8, abs=1e-4)
    accuracy = float((logits[0].argmax(axis=1) == labels).mean())
    assert [row["accuracy"] for row in found["votes"].values()] == pytest.approx([accuracy] * 10)
