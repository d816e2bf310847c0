"""Libraries of uncertainty in PyTorch beside this one: the same network, images and members, each in its own way.

ResNet-20 with the last layer as the subset, which all of them know: probly's SubEnsemble, torch-uncertainty's
CheckpointCollector, a last-layer Laplace of laplace-torch, SGHMC of posteriors. What is installed is run. *Fit*: the
same passes over the same images (Laplace: its one pass), ours with and without its compilation. *Vote*: the same
members, drawn by Laplace where it is installed. *Sets*: conformal sets of the same arrays.
"""

import copy
import importlib
import importlib.util
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import bend_jax
from benchmarks import common, members
from bend_jax import conformal, models, subset
from bend_jax.models import pytorch

# images that are voted on; members; training images; epochs, of which each gives a checkpoint; calibration images
SIZES = {"tiny": (2, 3, 32, 2, 40), "small": (64, 50, 512, 10, 2000), "full": (500, 100, 5000, 50, 5000)}
BATCH, CLASSES, LR = 32, 10, 0.01


class Task(NamedTuple):
    """One network in both libraries, and what it is run on."""

    net: Any  # in PyTorch, as evaluated
    variables: Any
    images: np.ndarray  # voted on, [n, 32, 32, 3]
    train: np.ndarray
    labels: np.ndarray
    heads: np.ndarray  # members as PyTorch's parameters_to_vector gives them [m, dim]: weight [classes, width], bias
    epochs: int


def apply(variables: Any, images: Any) -> Any:
    """The network in JAX."""
    return models.build("resnet20", CLASSES).apply(variables, images)


def prepare(size: str) -> Task:
    """An untrained network on noise."""
    import torch  # pyright: ignore[reportMissingImports]

    from tests import torch_nets

    n, m, many, epochs, _ = SIZES[size]
    members.one_thread()
    torch.manual_seed(0)
    net = torch_nets.build("resnet20").eval()
    images, train = (
        np.random.default_rng(i).normal(size=(k, 32, 32, 3)).astype(np.float32) for i, k in ((0, n), (1, many))
    )
    shapes = jax.eval_shape(models.build("resnet20", CLASSES).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    flat = pytorch.from_torch({name: x.numpy() for name, x in net.state_dict().items()}, shapes)
    leaves = [flat[name] for name in pytorch.flat_names(shapes)]
    variables = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    labels = np.arange(many, dtype=np.int32) % CLASSES
    base = np.concatenate([x.detach().numpy().ravel() for x in net.linear.parameters()])
    heads = base + 0.1 * np.random.default_rng(2).normal(size=(m, base.size)).astype(np.float32)
    return Task(net, variables, images, train, labels, heads.astype(np.float32), epochs)


def in_torch(images: np.ndarray) -> Any:
    """Images as PyTorch has them."""
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def batches(task: Task) -> Any:
    """A loader of the training images, in order."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader, TensorDataset  # pyright: ignore[reportMissingImports]

    return DataLoader(TensorDataset(in_torch(task.train), torch.from_numpy(task.labels).long()), batch_size=BATCH)


def bytes_of(tensors: Any) -> int:
    """What tensors hold, each storage once."""
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def held_by(module: Any) -> int:
    """What a module's parameters and buffers hold."""
    return bytes_of([*module.parameters(), *module.buffers()])


class Peer(NamedTuple):
    """One library: fit() makes members; vote() gives probabilities [m, n, classes]; bytes beside the one network."""

    fit: Callable[[], Any] | None
    vote: Callable[[], np.ndarray]
    held: int


def ours(task: Task) -> Peer:
    """`bend_jax.fit`, and an `Ensemble` of the given members."""
    collect = bend_jax.Trajectory(k=task.epochs, batch=BATCH, lr=LR, views=1)
    words: dict[str, Any] = {"subset": "linear", "collect": collect, "generate": bend_jax.Gaussian(), "progress": False}

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are no validation images
            return bend_jax.fit(apply, task.variables, task.train, task.labels, members=len(task.heads), **words)

    chosen = subset.select(task.variables, ["linear"])
    width = task.heads.shape[1] // CLASSES - 1
    kernels = task.heads[:, :-CLASSES].reshape(-1, CLASSES, width).transpose(0, 2, 1).reshape(len(task.heads), -1)
    vectors = np.concatenate([task.heads[:, -CLASSES:], kernels], axis=1)  # the subset's leaves: bias, kernel
    ensemble = bend_jax.Ensemble(apply, task.variables, chosen, vectors, np.ones(len(vectors), np.float32))
    return Peer(fit, lambda: special.softmax(np.asarray(ensemble.member_logits(task.images)), axis=-1), vectors.nbytes)


def probly(task: Task) -> Peer:
    """A trunk and a head for each member (0.3.0); its heads are trained by a loop of the user's, so that there is no
    fit of its own."""
    import torch  # pyright: ignore[reportMissingImports]
    from probly.representation.subensemble import SubEnsemble  # pyright: ignore[reportMissingImports]

    trunk, head = copy.deepcopy(task.net), copy.deepcopy(task.net.linear)
    trunk.linear = torch.nn.Identity()
    found = SubEnsemble(trunk, len(task.heads), head).eval()
    for member, vector in zip(found.models, task.heads, strict=True):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), member[1].parameters())
    x = in_torch(task.images)

    def vote() -> np.ndarray:
        with torch.no_grad():
            return found.predict_representation(x).transpose(0, 1).numpy()

    return Peer(None, vote, held_by(found) - held_by(trunk))


def torch_uncertainty(task: Task) -> Peer:
    """A copy of the whole network after each epoch of SGD on the last layer; members are whole networks too."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch_uncertainty.methods import CheckpointCollector, deep_ensembles  # pyright: ignore[reportMissingImports]

    def fit() -> Any:
        net = copy.deepcopy(task.net)
        kept = CheckpointCollector(net, use_final_model=False)
        optimizer = torch.optim.SGD(net.linear.parameters(), lr=LR, momentum=0.9)
        for epoch in range(task.epochs):
            for x, y in batches(task):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
            kept.update_wrapper(epoch)
        return kept

    nets = [copy.deepcopy(task.net) for _ in task.heads]
    for net, vector in zip(nets, task.heads, strict=True):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), net.linear.parameters())
    found, x = deep_ensembles(nets).eval(), in_torch(task.images)

    def vote() -> np.ndarray:
        with torch.no_grad():
            logits = found(x)  # [m n, classes], member by member
        return logits.softmax(-1).numpy().reshape(len(task.heads), len(x), CLASSES)

    return Peer(fit, vote, held_by(found) - held_by(task.net))


def laplace(task: Task) -> tuple[Peer, np.ndarray]:
    """A last-layer Laplace with a full Hessian; also the members that it draws, which the others are given."""
    import torch  # pyright: ignore[reportMissingImports]
    from laplace import Laplace  # pyright: ignore[reportMissingImports]

    def fit() -> Any:
        found = Laplace(copy.deepcopy(task.net), "classification", "last_layer", "full", last_layer_name="linear")
        found.fit(batches(task))
        return found

    found, x, m = fit(), in_torch(task.images), len(task.heads)
    draw = partial(found.sample, m, generator=torch.Generator().manual_seed(0))
    heads = draw().detach().numpy()

    def vote() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            drawn = found.predictive_samples(x, pred_type="nn", n_samples=m, generator=generator)
        return drawn.numpy()

    held = bytes_of([found.H, found.posterior_scale, found.posterior_covariance]) + heads.nbytes
    return Peer(fit, vote, held), heads


def posteriors(task: Task) -> Peer:
    """SGHMC of the last layer, a state kept after each epoch; the vote is vmap over `functional_call`."""
    import posteriors as library  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    def fit() -> Any:
        net = copy.deepcopy(task.net)
        for name, x in net.named_parameters():
            x.requires_grad_(name.startswith("linear."))
        rest = {name: x.detach() for name, x in net.named_parameters() if not x.requires_grad}
        own = {name: x.detach().clone() for name, x in net.named_parameters() if x.requires_grad}

        def log_posterior(params: Any, batch: Any) -> Any:
            x, y = batch
            logits = torch.func.functional_call(net, {**rest, **params}, (x,))
            prior = library.diag_normal_log_prob(params) / len(task.labels)
            return -torch.nn.functional.cross_entropy(logits, y) + prior, torch.tensor([])

        sampler = library.sgmcmc.sghmc.build(log_posterior, lr=LR, temperature=1 / len(task.labels))
        state, kept = sampler.init(own), []
        for _ in range(task.epochs):
            for batch in batches(task):
                state, _ = sampler.update(state, batch)
            kept.append({name: x.clone() for name, x in state.params.items()})
        return kept

    x, rows = in_torch(task.images), torch.from_numpy(task.heads.copy())
    stacked = {
        "linear.weight": rows[:, :-CLASSES].reshape(len(rows), CLASSES, -1),
        "linear.bias": rows[:, -CLASSES:].contiguous(),
    }

    def vote() -> np.ndarray:
        with torch.no_grad():
            run = torch.func.vmap(lambda part: torch.func.functional_call(task.net, part, (x,)))
            return run(stacked).softmax(-1).numpy()

    return Peer(fit, vote, rows.numel() * 4)


LIBRARIES: dict[str, Callable[[Task], Peer]] = {
    "probly": probly,
    "torch_uncertainty": torch_uncertainty,
    "posteriors": posteriors,
}


def compare(size: str, repeats: int) -> dict[str, Any]:
    """Every library's times, in ours, what its members hold, and the largest difference of a probability from ours."""
    task, found = prepare(size), {}
    if importlib.util.find_spec("laplace"):
        found["laplace"], heads = laplace(task)
        task = task._replace(heads=heads)
    found |= {name: make(task) for name, make in LIBRARIES.items() if importlib.util.find_spec(name)}
    found = {"bend_jax": ours(task), **found}
    assert found["bend_jax"].fit is not None
    started, before = time.perf_counter(), time.process_time()
    found["bend_jax"].fit()
    cold = {"seconds": time.perf_counter() - started, "busy": time.process_time() - before}
    fits = {name: peer.fit for name, peer in found.items() if peer.fit}
    fit, busy_fit = common.by_two_clocks(fits, max(1, repeats // 2))
    votes, busy = common.by_two_clocks({name: peer.vote for name, peer in found.items()}, repeats)
    own = found["bend_jax"].vote()
    rows = {
        name: {
            "fit": common.ratio(fit, name, "bend_jax") if name in fit else None,
            "fit_busy": common.ratio(busy_fit, name, "bend_jax") if name in fit else None,
            "vote": common.ratio(votes, name, "bend_jax"),
            "vote_busy": common.ratio(busy, name, "bend_jax"),
            "held": peer.held,
            "difference": float(np.abs(peer.vote() - own).max()),
            "version": getattr(importlib.import_module(name), "__version__", None),
        }
        for name, peer in found.items()
    }
    first = {"cold": cold["seconds"] / common.median(fit)["bend_jax"], "cold_busy": cold["busy"]}
    return {"rows": rows, **first, "fit": fit, "fit_busy": busy_fit, "vote": votes, "vote_busy": busy}


def theirs(method: str, coverage: float, calibration: Any, labels: Any, new: Any) -> np.ndarray:
    """torchcp's sets of probabilities, not randomised: its uniform numbers are 1, so that its score of a label is the
    mass above it."""
    import torch  # pyright: ignore[reportMissingImports]

    if "torchsort" not in sys.modules and not importlib.util.find_spec("torchsort"):  # one of its losses alone needs it
        sys.modules["torchsort"] = types.SimpleNamespace(soft_rank=None, soft_sort=None)  # pyright: ignore[reportArgumentType]
    from torchcp.classification import predictor, score  # pyright: ignore[reportMissingImports]

    penalty = {"penalty": conformal.PENALTY, "kreg": conformal.FREE}
    rules = {"aps": score.APS, "raps": partial(score.RAPS, **penalty)}
    rule = rules.get(method, score.LAC)(score_type="identity")
    by_class = method == "class_conditional"
    found = (predictor.ClassConditionalPredictor if by_class else predictor.SplitPredictor)(rule)
    with mock.patch("torch.rand", lambda *shape, device=None: torch.ones(*shape)):
        found.calculate_threshold(torch.from_numpy(calibration), torch.from_numpy(labels), 1 - coverage)
        return np.asarray(found.predict_with_logits(torch.from_numpy(new)), bool)


def sets(size: str) -> dict[str, str]:
    """How many labels of how many are in one library's conformal set and not in the other's, by method."""
    n = SIZES[size][-1]
    rng = np.random.default_rng(0)
    p = special.softmax(3 * rng.normal(size=(2 * n, CLASSES)), axis=1).astype(np.float32)
    labels = (p.cumsum(axis=1) < rng.random((2 * n, 1))).sum(axis=1).clip(0, CLASSES - 1)
    calibrated, scored = conformal.calibrate(p[:n], labels[:n]), conformal.scores(p[n:])
    differ = {}
    for method in conformal.METHODS:
        own = [conformal.sets(calibrated, scored, method, coverage) for coverage in (0.3, 0.5)]
        other = [theirs(method, coverage, p[:n], labels[:n], p[n:]) for coverage in (0.3, 0.5)]
        differ[method] = f"{sum(int((a != b).sum()) for a, b in zip(own, other, strict=True))} of {2 * own[0].size}"
    return differ


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    args = common.arguments(str(__doc__), "peers", argv)
    words = [f"--size={args.size}", f"--repeats={args.repeats}", f"--out={args.out.parent}"]
    members.main(["--cases=resnet18 bn2,resnet18 bn1+bn2", *words])
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed: nothing to compare with")
        return
    content = compare(args.size, args.repeats)
    header = ["library", "fit", "fit, CPU", "vote", "vote, CPU", "bytes of the members", "largest difference"]
    rows = []
    for name, row in content["rows"].items():
        ratios = [common.number(row[key]) for key in ("fit", "fit_busy", "vote", "vote_busy")]
        rows.append([name, *ratios, f"{row['held']:,}", f"{row['difference']:.1e}"])
    n, m, many, epochs, _ = SIZES[args.size]
    common.show(f"{many} images and {epochs} epochs for fit; {m} members on {n} images; times ours", header, rows)
    print(f"our first fit, with its compilation: {common.number(content['cold'])} times the second")
    if importlib.util.find_spec("torchcp"):
        content["sets"] = sets(args.size)
        print("labels whose conformal sets differ from torchcp's:", content["sets"])
    common.write(args, content)


if __name__ == "__main__":
    main(sys.argv[1:])
