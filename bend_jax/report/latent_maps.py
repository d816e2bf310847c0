"""Latent vectors on a plane: principal components, and t-SNE where scikit-learn is installed."""

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import Float

from bend_jax import components
from bend_jax.report.document import Figure
from bend_jax.report.plotting import COLOURS, label, legend

MOST = 500  # points of each set, evenly thinned
MOST_OF_IT = 0.8  # of the variance, from which a plane tells near from far
SETS = {  # (label, colour, marker, size); the bulkiest lie below
    "noised": ("checkpoints with the autoencoder's noise", COLOURS[3], "v", 14),
    "checkpoints": ("checkpoints", COLOURS[1], "s", 18),
    "members": ("members", COLOURS[0], "o", 14),
}


def has_tsne() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def figures(latents: dict[str, Any] | None) -> list[Figure]:
    """Maps of {"checkpoints": [k, z], "members": [m, z], "noised": [k, z]}; none where a generator has no latents."""
    if not latents:
        return []
    thin = {name: _thinned(np.asarray(latents[name], np.float64)) for name in SETS}
    stacked = np.concatenate(list(thin.values()))
    ends = np.cumsum([len(own) for own in thin.values()])[:-1]
    found = [_by_components(stacked, ends)]
    if has_tsne() and len(stacked) > 4:  # for fewer there are no neighbours to keep
        found.append(_by_tsne(stacked, ends))
    return found


def _thinned(points: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "few z"]:
    return points[np.linspace(0, len(points) - 1, min(len(points), MOST)).round().astype(int)]


def _by_components(stacked: Any, ends: Any) -> Figure:
    plane = components.plane(stacked)

    def draw(figure: Any) -> None:
        texts = [f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(plane.shares)]
        _scatter(figure, np.split(components.onto(plane, stacked), ends), texts)

    share = float(sum(plane.shares))
    meaning = (
        "members in one spot have collapsed, members on the checkpoints are near to them in most of what varies."
        if share >= MOST_OF_IT
        else "the other directions are not seen here, so that points on one spot need not be near each other, and no "
        "copy shows. The distances are under Copies or new networks."
    )
    sentence = (
        "Latent vectors of the autoencoder on the two principal components of all three sets, which hold "
        f"{share:.0%} of their variance: {meaning}"
    )
    return Figure("latents_pca", "Latents by PCA", sentence, draw)


def _by_tsne(stacked: Any, ends: Any) -> Figure:
    def draw(figure: Any) -> None:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        scale = max(float(stacked.std()), 1e-12)
        map_of = TSNE(perplexity=min(30.0, (len(stacked) - 1) / 3), init="pca", max_iter=500, random_state=0)
        with threadpool_limits(1):  # so few points are no work to share, and the sums keep their order
            points = map_of.fit_transform(stacked / scale)
        _scatter(figure, np.split(points, ends), ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"])

    sentence = (
        "The same by t-SNE, which keeps neighbours, not distances: where the colours part, the generator misses what "
        "was collected; where they mix it does not, which is no proof of copies."
    )
    return Figure("latents_tsne", "Latents by t-SNE", sentence, draw)


def _scatter(figure: Any, parts: list[Any], texts: list[str]) -> None:
    axes = figure.subplots()
    for (text, colour, marker, size), points in zip(SETS.values(), parts, strict=True):
        look = {"color": colour, "marker": marker, "s": size, "alpha": 0.65, "linewidths": 0}
        axes.scatter(points[:, 0], points[:, 1], label=text, **look)
    label(axes, *texts)
    legend(figure, axes)
