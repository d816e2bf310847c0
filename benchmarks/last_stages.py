"""Is a vote of last stages of a trained network worth having, once they are trained on towards harder targets?

A converged network's training loss is near 0, so that its last stage hardly moves. Here it is trained on in cosine
cycles: on plain and on augmented images, with label smoothing, with mixup, and towards the vote of several networks.
Half of the test images fit each row's temperature and the other half measures it, both ways. Intervals are paired over
images.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.votes import halves
from bend_jax import metrics, models
from bend_jax.api import collect_checkpoints
from bend_jax.collect.cyclical import Cyclical
from bend_jax.data import augment, sources, splits
from bend_jax.ensemble import pool_vote
from bend_jax.models import pytorch
from bend_jax.report.text import text_table
from bend_jax.split import cut
from bend_jax.subset import flatten, insert, select
from bend_jax.training import Callbacks, Examples, Model

BATCH = 250  # images a forward pass
MEMORY = 2**26  # too little to keep the features again, which are there already
# of ImageNet, which the release that the networks come from normalises with
DATA = sources.Data(name="cifar10", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Recipe(NamedTuple):
    """How a last stage is trained on."""

    name: str
    augmented: bool = True
    soft: bool = False  # towards the networks' vote
    settings: dict[str, float] = {}  # noqa: RUF012


RECIPES = (
    Recipe("plain images", augmented=False),
    Recipe("augmented"),
    Recipe("augmented, smoothing 0.1", settings={"label_smoothing": 0.1}),
    Recipe("augmented, mixup 1", settings={"mixup": 1.0}),
    Recipe("augmented, soft targets", soft=True),
)


class Stage(NamedTuple):
    """The subset of a network as a network of its own; its images are the frozen part's features [n, numbers]."""

    start: Any  # the trained vector
    features: Callable[[Any], Any]  # normalised images -> [n, numbers]
    apply: Callable[[Any, Any], Any]  # (vector, features) -> logits


def network(name: str, file: str) -> tuple[Callable[..., Any], Any]:
    """(apply, variables) of a backbone with the weights of a file."""
    module = models.build(name, 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return jax.jit(module.apply), pytorch.load_init(Path(file), shapes)


def stage_of(apply: Callable[..., Any], variables: Any, patterns: str) -> Stage:
    """Cut a network where the subset begins."""
    subset = select(variables, patterns.split(","))
    start = flatten(subset, variables)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    parts = cut(lambda v, x: apply(insert(subset, variables, v), x), start, image, any_batch=True)
    shapes = parts.feature_shapes  # of one image
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def features(images: Any) -> Any:
        return jnp.concatenate([x.reshape(len(x), -1) for x in parts.prefix(images)], axis=1)

    def run(vector: Any, rows: Any) -> Any:
        own = jnp.split(rows.astype(jnp.float32), ends, axis=1)
        return parts.suffix(vector, [x.reshape(-1, *shape) for x, shape in zip(own, shapes, strict=True)])

    return Stage(start, jax.jit(features), jax.jit(run))


def in_batches(fn: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """fn of BATCH rows after the other, joined."""
    begins = range(0, len(arrays[0]), BATCH)
    return np.concatenate([np.asarray(fn(*(x[begin : begin + BATCH] for x in arrays))) for begin in begins])


def training_features(stage: Stage, images: Any, views: int) -> np.ndarray:
    """[n, 1 + views, numbers], bfloat16: of the plain image and of augmented ones."""
    view, plain = augment.transforms(DATA)
    parts = [in_batches(jax.jit(lambda x: stage.features(plain(x)).astype(jnp.bfloat16)), images)]
    augmented = jax.jit(lambda keys, x: stage.features(view(keys, x, 0)).astype(jnp.bfloat16))
    parts += [in_batches(augmented, jax.random.split(jax.random.key(v), len(images)), images) for v in range(views)]
    return np.stack(parts, axis=1)


def train_on(stage: Stage, recipe: Recipe, features: Any, targets: Any, settings: Cyclical, seed: int) -> Any:
    """The base's vector and those of the ends of the cycles, [k, dim]."""
    drawn = features.shape[1] - 1

    def view(keys: Any, rows: Any, index: Any) -> Any:
        if not recipe.augmented:
            return rows[:, 0]
        return jax.vmap(lambda key, own: own[1 + jax.random.randint(key, (), 0, drawn)])(keys, rows)

    model = Model(lambda variables, rows: stage.apply(variables["params"]["stage"], rows))
    examples = Examples(features, jnp.asarray(targets), view, lambda rows: rows[:, 0])
    variables, callbacks = {"params": {"stage": stage.start}}, Callbacks(memory=MEMORY)
    how: Any = {"subset": select(variables, ["stage"]), "collect": settings, "seed": seed, "callbacks": callbacks}
    return collect_checkpoints(model, variables, examples, **how).vectors


def scaled_votes(logits: Any, labels: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[n, classes]: the opinion pool of logits [members, n, classes]; each half of the images has the temperature that
    the other half fits."""
    vote = np.asarray(pool_vote(jnp.asarray(logits), jnp.ones(len(logits))))
    result = np.empty_like(vote)
    for fit in (first, ~first):
        temperature = metrics.fit_temperature(jnp.asarray(vote[fit]), jnp.asarray(labels[fit]))
        result[~fit] = metrics.scale_temperature(jnp.asarray(vote[~fit]), temperature)
    return result


def row(name: str, p: np.ndarray, base: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy and NLL of probabilities, and how far they are from the base's, with intervals."""
    index = np.arange(len(labels))
    right, loss = (
        ((q.argmax(axis=1) == labels) * 1.0 for q in (p, base)),
        (-np.log(q[index, labels]) for q in (p, base)),
    )
    gaps = [next(pair) - next(pair) for pair in (right, loss)]
    intervals = metrics.paired_bootstraps(np.stack(gaps)[:, None], metrics.DRAWS)
    measured = {"accuracy": float(np.mean(p.argmax(axis=1) == labels)), "nll": float(-np.log(p[index, labels]).mean())}
    return {"row": name, **measured, "gain": intervals[0]._asdict(), "nll_gain": intervals[1]._asdict()}


def cells(found: dict[str, Any]) -> list[str]:
    """Of one row of the table."""
    gain, nll = found["gain"], found["nll_gain"]
    return [
        found["row"],
        f"{100 * found['accuracy']:.2f}",
        f"{100 * gain['mean']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]",
        f"{found['nll']:.4f}",
        f"{nll['mean']:+.4f} [{nll['low']:+.4f}, {nll['high']:+.4f}]",
    ]


def main(argv: list[str] | None = None) -> int:
    """Train, vote, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.last_stages", description=__doc__)
    parser.add_argument("networks", nargs="+", help="name=FILE, as resnet20=FILE; the first is trained on, all teach")
    parser.add_argument("--data", default="cifar10", help="data.name")
    parser.add_argument("--subset", default="layer3.-1", help="what is trained on")
    parser.add_argument("--images", type=int, default=25000, help="training images, stratified")
    parser.add_argument("--views", type=int, default=4, help="augmented views of each that are kept")
    parser.add_argument("--cycles", type=int, default=3, help="checkpoints besides the base")
    parser.add_argument("--epochs", type=int, default=2, help="of a cycle")
    parser.add_argument("--lr", type=float, default=0.05, help="at the start of a cycle")
    parser.add_argument("--recipes", default="", help="numbers of recipes from 0, with commas between; empty: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args(argv)
    train, test = sources.read(sources.Data(name=args.data))
    assert test is not None
    chosen = splits.held_out(np.random.default_rng(args.seed), train.labels, args.images)
    images, labels = train.images[chosen], train.labels[chosen].astype(np.int32)
    plain = augment.transforms(DATA)[1]
    networks = [network(*word.split("=", 1)) for word in args.networks]
    teach = [in_batches(jax.jit(lambda x, a=a, v=v: jax.nn.softmax(a(v, plain(x)))), images) for a, v in networks]
    stage = stage_of(*networks[0], args.subset)
    features = jnp.asarray(training_features(stage, images, args.views))
    seen = [test.images, test.images[:, :, ::-1]]
    tested = [in_batches(jax.jit(lambda x: stage.features(plain(x))), x) for x in seen]
    truth, first = test.labels.astype(np.int32), halves(test.labels, 0)
    settings = Cyclical(
        k=1 + args.cycles, epochs=args.epochs, lr=args.lr, weight_decay=0.0, views=args.cycles * args.epochs
    )
    result: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(args).items()}, "rows": []}

    def logits_of(vectors: Any) -> np.ndarray:
        """[members, views, n, classes]."""
        return np.stack([[in_batches(lambda x, v=v: stage.apply(v, x), x) for x in tested] for v in vectors])

    base = logits_of(stage.start[None])
    references = [scaled_votes(base[:, :views].reshape(-1, *base.shape[2:]), truth, first) for views in (1, 2)]

    def report(name: str, logits: np.ndarray) -> None:
        for views, reference in zip((1, 2), references, strict=True):
            voted = scaled_votes(logits[:, :views].reshape(-1, *logits.shape[2:]), truth, first)
            result["rows"].append(row(name + (", flip" if views == 2 else ""), voted, reference, truth))
            print(*cells(result["rows"][-1]), sep="  ", flush=True)

    report("base", base)
    wanted = [int(word) for word in args.recipes.split(",") if word] or range(len(RECIPES))
    for recipe in [RECIPES[i] for i in wanted]:
        began = time.process_time()
        own = settings.__class__(**{**vars(settings), **recipe.settings})
        vectors = train_on(stage, recipe, features, np.mean(teach, axis=0) if recipe.soft else labels, own, args.seed)
        logits = logits_of(vectors)
        print(f"{recipe.name}: {time.process_time() - began:.0f} CPU seconds", flush=True)
        report(f"{recipe.name}: last", logits[-1:])
        report(f"{recipe.name}: vote of {len(vectors)}", logits)
    print(
        text_table(
            ["row", "accuracy %", "less the base's", "NLL", "less the base's"], [cells(r) for r in result["rows"]]
        )
    )
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
