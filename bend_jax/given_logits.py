"""Evaluate members that came from anywhere, PyTorch included, by their logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bend_jax import conformal, files, storage
from bend_jax.checks import SettingsError, did_you_mean, expanded
from bend_jax.evaluation import given
from bend_jax.evaluation.scores import Evaluate
from bend_jax.evaluation.uncertainty import Parts
from bend_jax.example import of_torch
from bend_jax.labelled import advice, column, looks_like_probabilities
from bend_jax.report import document
from bend_jax.report import evaluation as report
from bend_jax.report.given import Evaluation as Numbers
from bend_jax.report.records import from_json

KEYS = ("logits", "labels", "validation_logits", "validation_labels")  # of a file; weights and ood_<name> may be there
OTHER = "ood_"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found. `str` gives its tables, `save` writes the whole report.

    - numbers: what report.json holds, as a record: `numbers.votes["mean"].accuracy`.
    - probabilities: [n, classes] of the vote that validation chose, after temperature scaling.
    - sets: booleans [n, classes] by conformal method; a method with too few validation images is missing.
    - doubt: parts of the members' doubt on each image, in nats: total, aleatoric and epistemic, [n] each.
    """

    numbers: Numbers
    probabilities: Float[np.ndarray, "n classes"]
    sets: dict[str, Bool[np.ndarray, "n classes"]]
    doubt: Parts

    def __str__(self) -> str:
        return document.to_text(report.document("evaluation", self.numbers))

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the answer and its table."""
        made = report.document("evaluation", self.numbers)
        return document.to_markdown(made._replace(blocks=made.blocks[:1]), figures=False)

    def save(self, directory: str | Path) -> None:
        """Write a new folder, whole or not at all: report.html, report.md, report.json, results.csv and figures/, and
        images.npz with `probabilities`, each of `sets` as sets_<method>, and the parts of `doubt`.

        Raises FileExistsError where the folder is there already.
        """
        path = expanded(directory).absolute()
        if path.exists():
            raise FileExistsError(f"{path} is there already: nothing was written; choose another folder")
        with storage.publishing(path, {"stage": "evaluation"}) as partial:
            made = report.document(path.name, self.numbers)
            document.write(made, partial.output, self.numbers, report.rows_csv(self.numbers), self.arrays())

    def publish(self, workdir: Path, source: str) -> None:
        """The same files in a work directory's store, linked as its report. source: where the logits are from."""
        made = report.document(workdir.name, self.numbers)
        manifest = {"stage": "evaluation", "inputs": [source]}
        rows = report.rows_csv(self.numbers)
        document.publish(made, self.numbers, rows, workdir, manifest, self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """Those of images.npz."""
        return {
            "probabilities": self.probabilities,
            **{f"sets_{method}": own for method, own in self.sets.items()},
            **self.doubt._asdict(),
        }


def evaluate(
    logits: Any,
    labels: Any,
    *,
    validation: Any,
    ood: Any = None,
    weights: Any = None,
    coverage: float = 0.9,
) -> Evaluation:
    """Votes, calibration, diversity, significance, conformal sets and other data sets, of m members by their logits.

    - logits [m, n, classes], labels [n] from 0: of test images. Arrays of any library: JAX, NumPy, PyTorch.
    - validation: (logits [m, v, classes], labels [v]) of images that no member was trained on and that are not among
      the test images. Temperatures, conformal sets and the choices of a vote and of the best member are made on them.
    - ood: logits [m, any, classes] of another data set, or several of them by name.
    - weights: of the members in a vote of their own, [m], at least 0.
    - coverage: of the conformal sets, in (0, 1). Methods with too few validation images for it have no sets, and the
      report says how many it takes.

    Raises ValueError (SettingsError) for input that does not fit, before anything is computed.
    """
    settings = Evaluate(coverage=coverage)
    own = _checked(logits, labels, validation, ood, weights, coverage)
    result, images = given.measure(own, settings)
    m, n, classes = own.test.shape
    sizes = {"members": m, "images": n, "validation_images": len(own.validation_labels), "classes": classes}
    return Evaluation(numbers=from_json(Numbers, {**result, **sizes}), **images._asdict())


def evaluate_file(path: str | Path, coverage: float = 0.9) -> Evaluation:
    """`evaluate` of an .npz file with the arrays `logits`, `labels`, `validation_logits` and `validation_labels`, and,
    where they are there, `weights` and `ood_<name>` for other data sets. Raises SettingsError for any other file."""
    return evaluate(**read(path), coverage=coverage)


def read(path: str | Path) -> dict[str, Any]:
    """The arguments of `evaluate` that such a file holds."""

    def choose(names: list[str]) -> list[str]:
        missing = [name for name in KEYS if name not in names]
        unknown = [name for name in names if name not in (*KEYS, "weights") and not name.startswith(OTHER)]
        if missing or unknown:
            hint = "".join(did_you_mean(name, KEYS) for name in unknown[:1])
            wrong = [f"has no {', '.join(missing)}"] * bool(missing)
            wrong += [f"has {', '.join(unknown)}{hint}"] * bool(unknown)
            raise SettingsError(
                f"{path} {' and '.join(wrong)}; its arrays are {', '.join(names) or 'none'}; accepted are "
                f"{', '.join(KEYS)}, and, if wanted, weights and {OTHER}<name>"
            )
        return names

    try:
        arrays = files.read_npz(expanded(path), choose)
    except SettingsError:
        raise
    except FileNotFoundError:
        raise SettingsError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is no .npz file of numbers, or a damaged one ({error})") from None
    return {
        "logits": arrays["logits"],
        "labels": arrays["labels"],
        "validation": (arrays["validation_logits"], arrays["validation_labels"]),
        "ood": {name.removeprefix(OTHER): own for name, own in arrays.items() if name.startswith(OTHER)},
        "weights": arrays.get("weights"),
    }


def _checked(logits: Any, labels: Any, validation: Any, ood: Any, weights: Any, coverage: float) -> given.Given:
    """The arrays as they are evaluated. Raises SettingsError for those that do not fit."""
    conformal.check_coverage(coverage)
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise SettingsError(
            "validation=(logits [m, v, classes], labels [v]) is needed, of images that no member was trained on: halve "
            f"your held-out images where you have one set; got {type(validation).__name__}"
        )
    test = _logits("logits", logits, None)
    truth = _labels("labels", labels, test)
    before = _logits("validation logits", validation[0], test)
    known = _labels("validation labels", validation[1], before)
    if np.array_equal(before, test) and np.array_equal(known, truth):
        raise SettingsError(
            "validation logits are the test logits: what is chosen on validation images would be judged on the same "
            "ones; halve the images where you have one set"
        )
    if isinstance(ood, tuple | list) and len({np.ndim(_array(x)) for x in ood}) > 1:
        raise SettingsError("ood is logits [m, any, classes] alone, or several of them by name; labels are not needed")
    others = ood if isinstance(ood, Mapping) else {} if ood is None else {"other": ood}
    return given.Given(
        test,
        truth,
        before,
        known,
        {str(name): _logits(f"ood logits {name!r}", x, test) for name, x in others.items()},
        None if weights is None else _weights(_array(weights), len(test)),
    )


def _array(x: Any) -> np.ndarray:
    """Of any library, or a list of such arrays."""
    if isinstance(x, tuple | list) and any(hasattr(own, "detach") for own in x):
        return np.stack([_array(own) for own in x])
    return of_torch(x) if hasattr(x, "detach") else np.asarray(x)


def _logits(name: str, x: Any, like: Float[np.ndarray, "m _ classes"] | None) -> Float[np.ndarray, "m n classes"]:
    """As float32. Raises SettingsError for another shape than [m, n, classes], or than those before it, and for NaN."""
    own = _array(x)
    wanted = "[members, images, classes]" if like is None else f"[{len(like)}, images, {like.shape[2]}]"
    fits = own.ndim == 3 and own.shape[2] > 1 and 0 not in own.shape
    if not fits or (like is not None and (own.shape[0], own.shape[2]) != (len(like), like.shape[2])):
        hint = "; those of one network need a member axis: logits[None]" if own.ndim == 2 else ""
        raise SettingsError(f"{name} must be {wanted}; they are {list(own.shape)}{hint}")
    if not jnp.issubdtype(own.dtype, jnp.number) or np.iscomplexobj(own):
        raise SettingsError(f"{name} must be real numbers; they are of type {own.dtype}")
    own = own.astype(np.float32)
    if looks_like_probabilities(own):
        raise SettingsError(f"{name} are probabilities (every row is at least 0 and sums to 1): give their logarithm")
    wrong = np.argwhere(~np.isfinite(own.max(axis=2)))  # -inf is a class that is ruled out
    if len(wrong):
        member, image = wrong[0]
        more = f" and in {len(wrong) - 1} more rows" if len(wrong) > 1 else ""
        raise SettingsError(f"{name} hold NaN or inf: of member {member} on image {image}{more}, counted from 0")
    return own


def _labels(name: str, x: Any, logits: Float[np.ndarray, "m n classes"]) -> np.ndarray:
    """As int32. Raises SettingsError for those that are not one class for each image."""
    own, (_, n, classes) = column(_array(x)), logits.shape
    if own.shape != (n,) or not np.issubdtype(own.dtype, np.integer):
        swapped = own.shape == logits.shape[:1]
        raise SettingsError(
            f"{name} must be {n} whole numbers, one for each image; {own.dtype}{list(own.shape)} came"
            + ("; logits are [members, images, classes]: are the first two axes swapped?" * swapped or advice(own))
        )
    if own.min() < 0 or own.max() >= classes:
        raise SettingsError(f"{name} go from {own.min()} to {own.max()}; the logits have {classes} classes, from 0")
    return own.astype(np.int32)


def _weights(own: np.ndarray, members: int) -> Float[np.ndarray, " m"]:
    fits = own.shape == (members,) and np.issubdtype(own.dtype, np.number)
    if not fits or not (np.isfinite(own).all() and own.min() >= 0 and own.sum() > 0):
        raise SettingsError(
            f"weights must be {members} numbers of at least 0, one for each member, not all 0; "
            f"{own.dtype}{list(own.shape)} came" + (f": {own}" if own.size < 20 else "")
        )
    return own.astype(np.float64)
