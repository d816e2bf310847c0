"""How sure a vote may be: its conformal sets, its calibration by more than a temperature, and what its doubt is of."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from bend_jax import conformal, metrics
from bend_jax.evaluation import calibration, uncertainty
from bend_jax.evaluation.predict import Outputs

CALIBRATED = ("base", "mean", "pool")  # votes that get vector scaling and Dirichlet calibration too


def set_row(
    calibrated: conformal.Calibration,
    probabilities: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    coverage: float,
) -> dict[str, dict[str, float] | None]:
    """By conformal method: how many test images' sets hold the label, how many labels they have on average, and in the
    class where it is least the coverage; None where there are too few calibration images."""
    found = conformal.all_sets(calibrated, probabilities, coverage)
    return {method: None if own is None else quality(own, labels) for method, own in found.items()}


def quality(sets: Bool[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Coverage, mean size, and coverage of the class that is covered least."""
    held = sets[np.arange(len(labels)), labels]
    count = np.bincount(labels)
    by_class = np.bincount(labels, weights=held)[count > 0] / count[count > 0]
    return {
        "coverage": float(held.mean()),
        "size": float(sets.sum(axis=1).mean()),
        "worst_class": float(by_class.min()),
    }


def calibrations(
    validation: tuple[Float[np.ndarray, "v classes"], Int[np.ndarray, " v"]],
    test: tuple[Float[np.ndarray, "n classes"], Int[np.ndarray, " n"]],
    temperature: float,
    bins: int,
) -> dict[str, dict[str, float] | None]:
    """NLL, Brier score and ECE of a vote on test images after the maps of `calibration`, fitted on validation images;
    None where a map has more numbers than there are of these. Both: (probabilities, labels)."""
    rows: dict[str, dict[str, float] | None] = {}
    for kind in calibration.KINDS:
        fitted = calibration.fit(kind, *validation, temperature)
        if fitted is None:
            rows[kind] = None
            continue
        p, y = jnp.asarray(calibration.apply(fitted, test[0])), jnp.asarray(test[1])
        found = {"nll": metrics.nll(p, y), "brier": metrics.brier(p, y), "ece": metrics.ece(p, y, bins)}
        rows[kind] = {name: float(x) for name, x in found.items()}
    return rows


def parts(found: Outputs) -> uncertainty.Parts:
    """Of each image."""
    assert found.information is not None
    return uncertainty.parts(found.mean, found.information)


def doubt(found: Outputs, which: Bool[np.ndarray, " n"] | None = None) -> dict[str, float | None]:
    """Mean parts of the members' doubt on n images (`uncertainty.Parts`), or on those of them alone; None for none."""
    own = {name: x if which is None else x[which] for name, x in parts(found)._asdict().items()}
    return {name: float(part.mean()) if len(part) else None for name, part in own.items()}


def right_and_wrong(found: Outputs, right: Bool[np.ndarray, " n"]) -> dict[str, dict[str, float | None]] | None:
    """The same, of the test images that the vote labels rightly and of the others; None where it is not known."""
    if found.information is None:
        return None
    return {"right": doubt(found, right), "wrong": doubt(found, ~right)}
