"""Votes over trained networks, from their logits: mean of probabilities or opinion pool, T on members or on the vote,
equal or fitted weights. Temperatures and weights come from one half of the images, figures from the other, both ways.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bend_jax
from bend_jax import metrics
from bend_jax.combination import fit_weights
from bend_jax.ensemble import VOTES, pool_vote
from bend_jax.report.text import text_table

Logits = Any  # [networks, views, n, classes]


def halves(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which images are in the first half; of every class as many as in the second, but for one."""
    rng, first = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        first[own[: len(own) // 2]] = True
    return first


def scaled_to(labels: Any, fit: Any, other: Any) -> tuple[Any, Any]:
    """Log-probabilities [m, n, classes] of both halves, each of the m with its temperature from the first."""
    temperatures = [metrics.fit_temperature(jax.nn.softmax(own), labels) for own in fit]
    t = jnp.asarray(temperatures)[:, None, None]
    return jax.nn.log_softmax(fit / t, axis=-1), jax.nn.log_softmax(other / t, axis=-1)


def pooled(logits: Logits) -> Any:
    """Log-probabilities [networks, n, classes]: of each network the pool of its views."""
    return jax.nn.log_softmax(jnp.mean(jax.nn.log_softmax(logits, axis=-1), axis=1), axis=-1)


def rows(fit: Logits, other: Logits, labels: Any) -> dict[str, Any]:
    """Probabilities of every vote on the second half, from temperatures and weights of the first."""
    views = [x.reshape(-1, *x.shape[2:]) for x in (fit, other)]  # every view of every network has a vote
    scaled, networks = scaled_to(labels, *views), scaled_to(labels, pooled(fit), pooled(other))
    found = {}
    for name, vote in VOTES.items():
        equal = jnp.ones(len(views[0]))
        weights = jnp.asarray(fit_weights(name, networks[0], labels), jnp.float32)
        found[f"{name}, T = 1"] = vote(views[1], equal)
        found[f"{name}, T on the vote"] = _scaled(labels, *(vote(x, equal) for x in views))
        found[f"{name}, T on members"] = vote(scaled[1], equal)
        found[f"{name}, T on members and on the vote"] = _scaled(labels, *(vote(x, equal) for x in scaled))
        found[f"{name}, the same with fitted weights"] = _scaled(labels, *(vote(x, weights) for x in networks))
    return found


def _scaled(labels: Any, before: Any, after: Any) -> Any:
    return metrics.scale_temperature(after, metrics.fit_temperature(before, labels))


def measures(p: Any, labels: Any) -> dict[str, float]:
    """Of probabilities."""
    right = metrics.accuracy(jnp.argmax(p, axis=1), labels)
    return {"accuracy": float(right), "nll": float(metrics.nll(p, labels)), "ece": float(metrics.ece(p, labels))}


def few(logits: Any, labels: np.ndarray, size: int, draws: int) -> dict[str, float]:
    """NLL on half of the images of the pool with equal weights, with fitted ones and with those that `combine` chooses,
    where `size` images of the other half are validation; medians over draws. logits: [networks, n, classes]."""
    first = halves(labels, 0)
    images = np.asarray(logits).transpose(1, 0, 2)  # of which a network picks its logits
    networks = [(lambda v, x, i=i: x[:, i] * v["scale"], {"scale": jnp.float32(1)}) for i in range(len(logits))]
    test, truth = jnp.asarray(logits[:, ~first]), jnp.asarray(labels[~first])
    found: dict[str, list[float]] = {"equal": [], "fitted": [], "chosen": []}
    for draw in range(draws):
        own = np.random.default_rng(draw).permutation(np.flatnonzero(first))[:size]
        y = jnp.asarray(labels[own])
        fit, other = scaled_to(y, jnp.asarray(logits[:, own]), test)
        for name, weights in (("equal", np.ones(len(logits))), ("fitted", fit_weights("pool", fit, y))):
            pool = [pool_vote(x, jnp.asarray(weights, jnp.float32)) for x in (fit, other)]
            found[name].append(float(metrics.nll(_scaled(y, *pool), truth)))
        chosen = bend_jax.combine(networks, validation=(images[own], labels[own]), votes=("pool",))
        found["chosen"].append(float(metrics.nll(jnp.asarray(chosen.predict_proba(images[~first])), truth)))
    return {name: float(np.median(values)) for name, values in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Read, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.votes", description=__doc__)
    parser.add_argument("logits", type=Path, help="npz: labels [n], and by network [n, classes] or [views, n, classes]")
    parser.add_argument("--networks", default="", help="some of them, with commas between; empty: all")
    parser.add_argument("--views", type=int, default=0, help="the first ones; 0: all")
    parser.add_argument("--sizes", default="", help="numbers of validation images: a table of equal and fitted weights")
    parser.add_argument("--draws", type=int, default=30, help="of validation images, for that table")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args(argv)
    content = np.load(args.logits)
    labels = content["labels"].astype(np.int32)
    names = args.networks.split(",") if args.networks else [name for name in content.files if name != "labels"]
    whole = [content[name].reshape(-1, len(labels), content[name].shape[-1]) for name in names]
    logits = jnp.asarray(np.stack([own[: args.views or None] for own in whole]), jnp.float32)
    first = halves(labels, 0)
    result: dict[str, Any] = {"networks": names, "views": logits.shape[1], "votes": {}, "few": {}}
    both = [(rows(logits[:, :, a], logits[:, :, ~a], jnp.asarray(labels[a])), labels[~a]) for a in (first, ~first)]
    lines = []
    for vote in both[0][0]:
        own = [measures(found[vote], jnp.asarray(y)) for found, y in both]
        mean = {name: float(np.mean([x[name] for x in own])) for name in own[0]}
        result["votes"][vote] = mean
        lines.append([vote, f"{100 * mean['accuracy']:.2f}", f"{mean['nll']:.4f}", f"{mean['ece']:.4f}"])
    print(f"{' + '.join(names)}, views: {logits.shape[1]}")
    print(text_table(["vote", "accuracy %", "NLL", "ECE"], lines))
    for size in [int(word) for word in args.sizes.split(",") if word]:
        result["few"][size] = few(pooled(logits), labels, size, args.draws)
        print(f"{size} validation images:", *(f"{name} {nll:.4f}" for name, nll in result["few"][size].items()))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
