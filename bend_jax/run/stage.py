"""What the stages of a run share: where one reads and writes, its vectors, and their predictions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from bend_jax import storage, subset, training
from bend_jax.api import reestimator
from bend_jax.checks import names
from bend_jax.data import augment, sources
from bend_jax.evaluation import predict
from bend_jax.generate.generator import Reestimate
from bend_jax.run.context import RunContext
from bend_jax.run.progress import TrainingLog, loss_curves


class StageContext(NamedTuple):
    """One stage's work: where it reads (by input name), where it writes, and who watches."""

    inputs: dict[str, Path]
    output: Path
    callbacks: training.Callbacks
    log: TrainingLog
    generator: str = ""


def reestimator_of(s: RunContext, task: StageContext) -> Reestimate | None:
    """How new vectors get BN statistics of their own, where the subset holds weights and statistics."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    return reestimator(s.model, variables, s.chosen, s.examples, seed=s.seed, images=s.config.generate.statistics)


def sets_of(s: RunContext, task: StageContext, variables: Any, vectors: Any) -> dict[str, Any]:
    """The vectors to evaluate, by name: base, average of the checkpoints ("swa"), checkpoints, every generator's."""
    swa = jnp.asarray(vectors.mean(axis=0)[None])
    reestimate = reestimator_of(s, task)
    swa = swa if reestimate is None else reestimate(swa)
    sets = {"base": np.asarray(subset.flatten(s.chosen, variables))[None], "swa": swa, "checkpoints": vectors}
    for name in (s.config.generate.name, *s.config.generate.nulls):
        sets[name] = storage.load_tree(task.inputs[f"generate {name}"] / "members")["vectors"]
    return sets


def predict_split(
    s: RunContext,
    task: StageContext,
    variables: Any,
    sets: dict[str, Any],
    split: sources.Split,
    wanted: predict.Wanted = predict.Wanted(),  # noqa: B008
) -> dict[str, predict.Outputs]:
    """`predict.predict` of one split."""
    return _on_split(partial(predict.predict, wanted=wanted), s, task, variables, sets, split)


def label_split(
    s: RunContext, task: StageContext, variables: Any, sets: dict[str, Any], split: sources.Split
) -> dict[str, Int[np.ndarray, "voters n"]]:
    """`predict.labels` of one split."""
    return _on_split(predict.labels, s, task, variables, sets, split)


def _on_split(
    run: Callable[..., dict[str, Any]],
    s: RunContext,
    task: StageContext,
    variables: Any,
    sets: dict[str, Any],
    split: sources.Split,
) -> dict[str, Any]:
    """What the sets say of one split; checkpoints that are also a null's members run once."""
    n = len(split.labels)
    views = names(s.config.evaluate.views)
    others = {} if "checkpoints" not in sets else {n: x for n, x in sets.items() if n != "checkpoints"}
    again = {name for name, x in others.items() if np.array_equal(x, sets["checkpoints"])}
    once = {name: vectors for name, vectors in sets.items() if name not in again}
    with tqdm(total=n, desc=task.generator or "evaluate", unit="image", disable=None, leave=False) as bar:
        found = run(
            s.model.apply,
            variables,
            s.chosen,
            once,
            lambda rows, view: s.examples.plain(augment.shifted_view(jnp.asarray(split.images[rows]), view)),
            n,
            batch=min(s.config.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels)),
            views=views,
            callbacks=task.callbacks,
            progress=lambda done: (bar.update(done - bar.n), None)[1],
        )
    return {name: found["checkpoints" if name in again else name] for name in sets}


def write_result(task: StageContext, values: dict[str, Any]) -> None:
    """result.json: what the stage measured, with seconds, compilations and loss curves by training."""
    clock = {"seconds": task.log.seconds, "compile": task.log.compile, "training": loss_curves(task.log.lines)}
    storage.write_json(task.output / "result.json", {**values, **clock})
