"""Forecasts: seconds of a run known by hand from those of its parts; the example files of clusters."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bend_jax.run import cost, forecast, probes
from bend_jax.run.flags import define_flags, every_flag
from tests.test_compare import N, prepared

ROOT = Path(__file__).parents[1]


def test_seconds_follow_from_those_of_the_parts(tmp_path: Path) -> None:
    """A second for a forward pass, three for a step: 60 images for 2 epochs, and the validation images once."""
    row, s = prepared(tmp_path, "mean", generate__tune=(0.5, 1.0))
    voters = 2 + 16 + 20  # base, average, k, m
    assert cost.voters(s) == voters
    image = cost.operations(s)._replace(forward=1.0, step=3.0)
    generated = {"gaussian": probes.Generated(5.0, 100.0, 2.0)}
    found = forecast._stages(s, forecast._Parts(image, 7.0, generated, probes.Evaluating(1.0 + voters, 10, 0)))
    assert found["base"] == pytest.approx(2 * N * 3 + N + forecast.STAGE)
    assert found["collect"] == pytest.approx(7 + forecast.STAGE)
    assert row.config.generate.tune == (0.5, 1.0)
    tuned = 2 * (2 + N * 20) + N
    assert found["generate gaussian"] == pytest.approx(5 + 100 + 2 * 2 + tuned + forecast.STAGE)
    assert found["evaluate"] == pytest.approx(2 * N * (1 + voters), rel=0.01)
    assert set(found) == {"base", "collect", "generate gaussian", "evaluate", "memorisation", "report"}


def test_statistics_of_every_member_that_is_no_checkpoint_are_estimated(tmp_path: Path) -> None:
    """Two passes over the 50 images for each of 20 members, where a subset moves BN's inputs; twice, as members are
    drawn. A draw of checkpoints has its own."""
    _, s = prepared(tmp_path, "mean", collect__subset="*", generate__nulls="resample", generate__statistics=50)
    image = cost.operations(s)._replace(forward=1.0)
    generated = dict.fromkeys(("gaussian", "resample"), probes.Generated(0.0, 0.0, 0.0))
    found = forecast._stages(s, forecast._Parts(image, 0.0, generated, probes.Evaluating(1.0, 10, 0)))
    assert found["generate gaussian"] == pytest.approx(2 * 20 * 2 * 50 + forecast.STAGE)
    assert found["generate resample"] == pytest.approx(forecast.STAGE)


def test_a_training_is_timed_by_its_second_segment() -> None:
    """The first has what is compiled beside it; nothing runs after the second."""
    times = iter([0.0, 50.0, 60.0])
    watch = probes.Watch(lambda: next(times))

    def train() -> None:
        watch.resume("a", None, 1000)
        watch.segment("a", None, np.zeros(5))
        watch.segment("a", None, np.zeros(5))
        pytest.fail("it went on")

    assert watch.run(train) is None
    assert watch.seconds == 2.0
    assert watch.steps == {"a": 1000}


def test_spans_of_compilation_count_once() -> None:
    """Tracing nests: [1, 4] holds [2, 3], and [3, 6] begins in it."""
    meter: Any = probes.Meter(lambda: 0.0)
    meter.spans = [(2.0, 3.0), (1.0, 4.0), (3.0, 6.0), (8.0, 9.0)]
    assert meter.compiling == 6.0


@pytest.mark.parametrize("name", ["slurm.sh", "jobset.yaml"])
def test_a_clusters_command_has_flags_of_launch(name: str) -> None:
    """Every word is a flag that there is, the configuration exists, and as many processes start as are told."""
    text = (ROOT / "examples" / "cluster" / name).read_text()
    (command,) = re.findall(r"python launch\.py (.*)", text)
    words = dict(word.removeprefix("--").split("=", 1) for word in command.split())
    assert set(words) <= {flag.name for flag in every_flag(define_flags())}
    assert (ROOT / words["config"]).exists()
    if name == "slurm.sh":
        assert words["distributed"] == "auto"
        return
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]
    job = spec["template"]["spec"]
    address, count, index = words["distributed"].split(",")
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (int(count), int(count), "Indexed")
    assert index == "$JOB_COMPLETION_INDEX"
    assert address.startswith(f"bend-{spec['name']}-0-0.bend:")
