"""100 members in one program, against a loop of full passes, vmap over whole trees, plain vmap, and PyTorch."""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from bend_jax import ensemble, split, subset
from bend_jax.run import cost

CASES = {
    "resnet18 bn2": ("res18_cifar10", "layer4.1.bn2"),
    "resnet18 bn1+bn2": ("res18_cifar10", "layer4.1.bn1,layer4.1.bn2"),
    "resnet50 bn2+bn3": ("res50_cifar10", "layer4.2.bn2,layer4.2.bn3"),
}
BARS = {"resnet18 bn2": 1.15}  # forward passes; of the others 1.3 floors
FLOORS = 1.3
OTHERS = ("loop", "vmap", "torch", "plain", "torch_vmap", "cached")  # columns, in times of ours
# images; members; passes of the loop that are timed; trees in the vmap; bytes for intermediates, the first is the bar's
SIZES = {
    "tiny": (2, 4, 1, 2, (2**30,)),
    "small": (4, 100, 3, 2, (2**30, 2**22)),
    "full": (500, 100, 100, 4, (16 * 2**30, 2**30)),
}


def floor(ops: Any, members: int) -> float:
    """The fewest operations for one image, in forward passes: the prefix once, the suffix for every member."""
    return (ops.forward + (members - 1) * ops.suffix) / ops.forward


def least_bytes(variables: Any, vectors: Any, images: Any, classes: int) -> int:
    """What must be read and written whatever the program: weights, vectors and images once, the logits."""
    return common.size_of((variables, vectors, images)) + 4 * len(vectors) * len(images) * classes


def in_torch(name: str, vectors: np.ndarray, images: Any, passes: int) -> dict[str, Callable[[], Any]]:
    """The same network in PyTorch, where it is installed: `passes` full passes, the vector copied into the net before
    each; and `torch.func.vmap` over `functional_call`, all members at once."""
    if not importlib.util.find_spec("torch") or not name.startswith("resnet18"):
        return {}  # the tests' nets in PyTorch have no ResNet-50
    import torch  # pyright: ignore[reportMissingImports]

    from tests import torch_nets

    one_thread()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = torch_nets.build("resnet18").eval().to(device)
    names = [f"layer4.1.{layer}" for layer in (("bn1", "bn2") if "+" in name else ("bn2",))]
    x = torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy()).to(device)
    rows = torch.from_numpy(vectors.copy()).to(device)
    leaves = [f"{layer}.{leaf}" for layer in names for leaf in ("bias", "weight")]  # the order of a subset's leaves
    own = dict(net.named_parameters())

    def loop() -> Any:
        labels = []
        with torch.no_grad():
            for vector in rows[:passes]:
                for leaf, part in zip(leaves, vector.chunk(len(leaves)), strict=True):
                    own[leaf].copy_(part)
                labels.append(net(x).argmax(1))
        return [np.asarray(label.cpu()) for label in labels]

    def vmap() -> Any:
        stacked = dict(zip(leaves, rows.chunk(len(leaves), dim=1), strict=True))
        with torch.no_grad():
            logits = torch.func.vmap(lambda part: torch.func.functional_call(net, part, (x,)))(stacked)
            return np.asarray(logits.argmax(2).cpu())

    return {"torch": loop, "torch vmap": vmap}


def one_thread() -> None:
    """PyTorch on one core of a CPU: beside other work its threads wait for each other, so that a ResNet-20's pass took
    ten times as long with two."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)


class Case(NamedTuple):
    """One network with its members."""

    ops: cost.Operations
    apply: Callable[..., Any]
    variables: Any
    chosen: subset.Subset
    vectors: Any
    images: Any
    single: Callable[..., Any]  # (variables, vector, images): one full pass
    classes: int


def prepare(name: str, dtype: str, size: str) -> Case:
    """Untrained, with members far enough apart to differ in their labels."""
    task, patterns = CASES[name]
    n, m, *_ = SIZES[size]
    s = common.prepare(task, {"collect.subset": patterns, "backbone.dtype": dtype}, (64, 64, n))
    variables, chosen, apply = common.fresh(s), s.chosen, s.model.apply
    base = subset.flatten(chosen, variables)
    vectors = base[None] + 0.5 * jax.random.normal(jax.random.key(1), (m, chosen.dim))
    single = jax.jit(lambda variables, vector, x: apply(subset.insert(chosen, variables, vector), x))
    images = s.examples.plain(jnp.asarray(s.dataset.test.images))
    return Case(cost.operations(s), apply, variables, chosen, vectors, images, single, s.dataset.num_classes)


def programs(case: Case, memories: tuple[int, ...]) -> dict[int, tuple[int, Any]]:
    """(chunk, compiled member_logits) for each amount of memory."""
    parts = case.ops.parts._replace(suffix_bytes=len(case.images) * case.ops.parts.suffix_bytes)
    chunks = {memory: min(ensemble.chunk_size(parts, memory), len(case.vectors)) for memory in memories}
    arguments = (case.apply, case.variables, case.chosen, case.vectors, case.images)
    compiled = {c: ensemble.member_logits.lower(*arguments, chunk=c).compile() for c in set(chunks.values())}
    return {memory: (chunk, compiled[chunk]) for memory, chunk in chunks.items()}


def temporary_bytes(run: Any) -> int:
    """What a compiled program takes beside its arguments and results."""
    return run.memory_analysis().temp_size_in_bytes


def rivals(name: str, case: Case, size: str) -> dict[str, Callable[[], Any]]:
    """A loop of full passes, vmap over the vectors with the insertion inside, vmap over whole trees, PyTorch; the last
    two where they can be run."""
    _, _, passes, trees, _ = SIZES[size]
    found: dict[str, Callable[[], Any]] = {
        "loop": lambda: [case.single(case.variables, v, case.images) for v in case.vectors[:passes]]
    }
    found["plain"] = partial(plain(case), case.variables, case.vectors, case.images)
    if name in BARS:
        stacked = jax.vmap(partial(subset.insert, case.chosen, case.variables))(case.vectors[:trees])
        whole = jax.jit(jax.vmap(case.apply, (0, None)))
        found["vmap"] = lambda: whole(stacked, case.images)
    return {**found, **in_torch(name, np.asarray(case.vectors), case.images, passes)}


def plain(case: Case) -> Callable[..., Any]:
    """What a careful user writes: all members at once, and XLA finds what does not depend on the vector by itself."""
    one = lambda variables, vector, x: case.apply(subset.insert(case.chosen, variables, vector), x)  # noqa: E731
    arguments = (case.variables, case.vectors, case.images)
    return jax.jit(jax.vmap(one, (None, 0, None))).lower(*arguments).compile()


def cached(case: Case) -> Callable[[], Any]:
    """The members on features that are there already, as in a second call on the same images."""
    parts = split.cut(
        lambda v, x: case.apply(subset.insert(case.chosen, case.variables, v), x), case.vectors[0], case.images
    )
    features = jax.jit(parts.prefix)(case.images)
    run = jax.jit(lambda suffix, vectors, features: jax.vmap(lambda v: suffix(v, features))(vectors))
    return partial(run, parts.suffix, case.vectors, features)


def measure(name: str, dtype: str, size: str, repeats: int) -> dict[str, Any]:
    """One row: seconds of each variant, ratios to the forward pass and to the floors, memory, labels."""
    n, m, passes, trees, memories = SIZES[size]
    case = prepare(name, dtype, size)
    forward = jax.jit(case.apply).lower(case.variables, case.images).compile()
    chunked = programs(case, memories)
    variants: dict[str, Callable[[], Any]] = {"forward": lambda: forward(case.variables, case.images)}
    for chunk, run in chunked.values():
        variants[f"chunk {chunk}"] = partial(run, case.variables, case.vectors, case.images)
    probes = common.Probes()
    variants |= {**rivals(name, case, size), "cached": cached(case)}
    seconds, busy = common.by_two_clocks(variants, repeats, probes.take)
    own, times, over = f"chunk {chunked[memories[0]][0]}", common.median(seconds), partial(common.ratio, seconds)
    lowest, rate = floor(case.ops, m), probes.rates()
    moved = least_bytes(case.variables, case.vectors, case.images, case.classes)
    inputs = common.size_of((case.variables, case.images))
    device = [common.floor_seconds(n * case.ops.forward * x, y, rate, dtype) for x, y in ((1, inputs), (lowest, moved))]
    return {
        "case": name,
        "dtype": dtype,
        "images": n,
        "members": m,
        "over_forward": over(own, "forward"),
        "floor_forwards": lowest,
        "over_floor": over(own, "forward") / lowest,
        "over_device_floor": times[own] / device[1],
        "forward_over_device_floor": times["forward"] / device[0],
        "loop_over_own": over("loop", own) * m / passes,
        "loop_passes": passes,
        "vmap_over_own": over("vmap", own) * m / trees if "vmap" in times else None,
        "vmap_trees": trees,
        "torch_over_own": over("torch", own) * m / passes if "torch" in times else None,
        "plain_over_own": over("plain", own),
        "torch_vmap_over_own": over("torch vmap", own) if "torch" in times else None,
        "cached_over_own": over("cached", own),
        "busy_over_own": {name: common.ratio(busy, name, own) for name in busy},
        "forward_temporary_bytes": temporary_bytes(forward),
        "memory": {
            str(memory): {
                "chunk": chunk,
                "temporary_bytes": temporary_bytes(run),
                "over_forward": over(f"chunk {chunk}", "forward"),
            }
            for memory, (chunk, run) in chunked.items()
        },
        **compare(case, chunked[memories[0]][1](case.variables, case.vectors, case.images)),
        "seconds": seconds,
        "busy": busy,
        "rates": rate,
    }


def compare(case: Case, own: Any) -> dict[str, Any]:
    """Logits of all members against those of the loop."""
    return agreement(own, jnp.stack([case.single(case.variables, v, case.images) for v in case.vectors]))


def agreement(own: Any, loop: Any) -> dict[str, Any]:
    """How the members' logits compare with the loop's; a label can differ only where two logits are as near as that."""
    labels, expected = (np.asarray(jnp.argmax(x, axis=-1)) for x in (own, loop))
    return {
        "labels": int(labels.size),
        "labels_that_differ": int((labels != expected).sum()),
        "distinct_labels": len(np.unique(expected)),
        "largest_difference": float(jnp.max(jnp.abs(own - loop))),
        "logits_sd": float(jnp.std(loop)),
    }


def keeps(row: dict[str, Any]) -> bool:
    """Whether it keeps its bar."""
    bar = BARS.get(row["case"])
    return row["over_forward"] <= bar if bar else row["over_floor"] <= FLOORS


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What the README shows."""
    header = ["case", "dtype", "/ forward", "floor", "/ floor", "bar", "loop", "vmap", "PyTorch"]
    header += ["plain vmap", "PyTorch's vmap", "cached", "labels differ"]
    cells = []
    for r in rows:
        ratios = [common.number(r[key]) for key in ("over_forward", "floor_forwards", "over_floor")]
        others = [common.number(r[f"{key}_over_own"]) for key in OTHERS]
        kept = "kept" if keeps(r) else "missed"
        differ = f"{r['labels_that_differ']} of {r['labels']}"
        cells.append([r["case"], r["dtype"], *ratios, kept, *others, differ])
    return header, cells


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    more: dict[str, dict[str, Any]] = {
        "dtype": {"default": "float32", "help": "float32, bfloat16, or both, with a comma"}
    }
    more["cases"] = {"default": ",".join(CASES), "help": "some of these"}
    args: argparse.Namespace = common.arguments(str(__doc__), "members", argv, **more)
    rows: list[dict[str, Any]] = []
    for dtype in args.dtype.split(","):
        for name in args.cases.split(","):
            rows.append(measure(name, dtype, args.size, args.repeats))
            common.write(args, {"rows": rows})
            print(f"{name} {dtype}: {rows[-1]['over_forward']:.2f} forward passes", flush=True)
    title = f"{rows[0]['members']} members, {rows[0]['images']} images; from loop to cached: times ours"
    common.show(title, *table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
