"""A subset names leaves, and the vector is an exact copy of them."""

import json
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models
from bend_jax.subset import Subset, Variables, flatten, from_json, insert, select, stack, to_json

IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


def shapes_of(module: nn.Module) -> Variables:
    """The module's variables as shapes, nothing computed."""
    return jax.eval_shape(module.init, jax.random.key(0), IMAGES)


def filled(shapes: Variables, seed: int = 0) -> Variables:
    """Arrays of these shapes and dtypes with values that all differ."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), s.dtype), shapes)


def leaf_names(tree: Variables) -> list[str]:
    """Dotted names in leaf order, of a tree of dicts."""
    return [".".join(str(e.key) for e in path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def named(tree: Variables, name: str) -> jax.Array:
    """The leaf of that dotted name."""
    for component in name.split("."):
        tree = tree[component]
    return tree


@cache
def small_shapes() -> Variables:
    """A narrow net of three blocks."""
    return shapes_of(models.build("resnet18", 5, widths=(4, 8), blocks=(1, 2)))


def assert_same_trees(left: Variables, right: Variables) -> None:
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("is_small", "patterns"),
    [
        (False, ["layer4.1.bn1", "layer4.1.bn2"]),
        (True, ["layer2.*.bn2"]),
        (True, ["layer2.0.shortcut", "fc", "batch_stats.layer1", "conv1.weight"]),
        (True, ["*"]),
    ],
)
def test_flatten_and_insert_are_exact_inverses_both_ways(is_small: bool, patterns: list[str]) -> None:
    """insert(flatten) is the same tree, flatten(insert) the same vector, and nothing else in the tree moves."""
    shapes = small_shapes() if is_small else shapes_of(models.build("resnet18", 10))
    variables, other = filled(shapes), filled(shapes, seed=1)
    subset = select(shapes, patterns)
    vector = flatten(subset, variables)
    assert vector.shape == (subset.dim,)
    assert vector.dtype == jnp.float32
    assert_same_trees(insert(subset, variables, vector), variables)
    new = jnp.arange(subset.dim, dtype=jnp.float32) + 0.5
    moved = insert(subset, variables, new)
    np.testing.assert_array_equal(flatten(subset, moved), new)
    assert_same_trees(insert(subset, moved, vector), variables)
    complement = [name for name in leaf_names(shapes) if name not in subset.paths]
    if complement:
        rest = Subset(tuple(complement), tuple(tuple(named(variables, name).shape) for name in complement))
        np.testing.assert_array_equal(flatten(rest, moved), flatten(rest, variables))
    np.testing.assert_array_equal(flatten(subset, insert(subset, other, vector)), vector)


def test_the_vector_is_the_leaves_in_leaf_order_each_in_row_major_order() -> None:
    """Read by hand: bias before scale, a kernel as it lies in memory."""
    variables = {"params": {"a": {"scale": jnp.array([3.0, 4.0]), "bias": jnp.array([1.0, 2.0])}, "b": jnp.eye(2)}}
    subset = select(variables, ["b", "a"])
    assert subset.paths == ("params.a.bias", "params.a.scale", "params.b")
    assert subset.shapes == ((2,), (2,), (2, 2))
    assert subset.dim == 8
    np.testing.assert_array_equal(flatten(subset, variables), [1, 2, 3, 4, 1, 0, 0, 1])
    put = insert(subset, variables, jnp.arange(8.0))
    np.testing.assert_array_equal(put["params"]["b"], [[4, 5], [6, 7]])
    np.testing.assert_array_equal(put["params"]["a"]["scale"], [2, 3])


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layer2.1.bn2"], ["params.layer2.1.bn2.bias", "params.layer2.1.bn2.scale"]),
        (["layer2.1.bn2.scale"], ["params.layer2.1.bn2.scale"]),
        (["layer2.1.bn2.weight"], ["params.layer2.1.bn2.scale"]),
        (["layer2.1.conv2.weight"], ["params.layer2.1.conv2.kernel"]),
        (["fc.weight", "fc.bias"], ["params.fc.bias", "params.fc.kernel"]),
        (["layer2.*.bn1.bias"], ["params.layer2.0.bn1.bias", "params.layer2.1.bn1.bias"]),
        (["layer*.0.conv*.kernel"], [f"params.layer{i}.0.conv{j}.kernel" for i in (1, 2) for j in (1, 2)]),
        (["layer2.-1.bn2.bias"], ["params.layer2.1.bn2.bias"]),  # -1: the last one
        (["layer*.-1.bn1.bias"], ["params.layer1.0.bn1.bias", "params.layer2.1.bn1.bias"]),
        (["batch_stats.layer2.-1.bn2.mean"], ["batch_stats.layer2.1.bn2.mean"]),
        (["batch_stats.layer2.1.bn2"], ["batch_stats.layer2.1.bn2.mean", "batch_stats.layer2.1.bn2.var"]),
        (["batch_stats.bn1.mean", "bn1"], ["batch_stats.bn1.mean", "params.bn1.bias", "params.bn1.scale"]),
        (["params.fc"], ["params.fc.bias", "params.fc.kernel"]),
        (
            ["layer2.0.shortcut"],
            [f"params.layer2.0.shortcut.{n}" for n in ("0.kernel", "1.bias", "1.scale")],
        ),
    ],
)
def test_a_pattern_is_a_leading_run_of_whole_components(patterns: list[str], expected: list[str]) -> None:
    """Every form that a pattern can have, against the leaves that it means."""
    assert list(select(small_shapes(), patterns).paths) == expected


@pytest.mark.parametrize(("pattern", "start"), [("*", ""), ("params", "params."), ("layer1", "params.layer1.")])
def test_a_pattern_of_a_branch_is_every_leaf_on_it(pattern: str, start: str) -> None:
    """In the order of the leaves."""
    names = [name for name in leaf_names(small_shapes()) if name.startswith(start)]
    assert list(select(small_shapes(), [pattern]).paths) == names
    assert len(names) > 4


@pytest.mark.parametrize(
    "pattern",
    [
        "layer",  # half a component
        "bn2",  # not a leading run
        "1.bn2",
        "layer2.1.bn",
        "layer2.*.scale",  # a star is one component, not two
        "layer2*scale",
        "*.scale.extra",
        "layer2.1.bn2.scale.more",
        "layer2..bn2",
        "layer2.1.bn2.mean",  # without a collection in front, params is meant
        "weight",
        "fc.scale",
        "nothing.fc",
        "-1.bn2",  # there is no number in that place
        "layer2.-2.bn2",
        "",
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str) -> None:
    """Also where others match."""
    with pytest.raises(ValueError, match="matches nothing"):
        select(small_shapes(), ["fc", pattern])


def test_the_error_names_the_nearest_names() -> None:
    """A slip of the keyboard is answered with what was meant."""
    with pytest.raises(ValueError, match=r"'layer2\.1\.bm2' matches nothing.*layer2\.1\.bn2"):
        select(small_shapes(), ["layer2.1.bm2"])
    with pytest.raises(ValueError, match=r"bn1.*conv1.*fc.*layer1.*layer2"):
        select(small_shapes(), ["zzzzzzzz"])


def test_no_pattern_and_a_bare_string_are_errors() -> None:
    """Nothing to select; a string would be read letter by letter."""
    with pytest.raises(ValueError, match="no pattern"):
        select(small_shapes(), [])
    with pytest.raises(ValueError, match="sequence"):
        select(small_shapes(), "fc")


def test_duplicates_merge_and_the_order_of_patterns_does_not_count() -> None:
    """Order is the tree's."""
    once = select(small_shapes(), ["layer2.1", "fc"])
    assert select(small_shapes(), ["fc", "layer2.1.bn2", "layer2.1", "layer2.*.bn2.scale", "fc"]) == select(
        small_shapes(), ["layer2.*.bn2.scale", "layer2.1", "fc"]
    )
    assert select(small_shapes(), ["fc", "layer2.1", "fc.bias", "layer2.1"]) == once
    order = [leaf_names(small_shapes()).index(path) for path in once.paths]
    assert order == sorted(order)


def test_a_star_alone_leaves_other_collections_out() -> None:
    """Everything means parameters and batch statistics."""
    variables = {"params": {"a": jnp.ones(1)}, "batch_stats": {"a": jnp.ones(2)}, "cache": {"a": jnp.ones(3)}}
    assert select(variables, ["*"]).paths == ("batch_stats.a", "params.a")
    assert select(variables, ["cache.a"]).paths == ("cache.a",)
    assert select(variables, ["params.*", "cache.*"]).paths == ("cache.a", "params.a")


def test_two_leaves_with_one_dotted_name_are_an_error() -> None:
    """A key with a dot in it can look like a nested one."""
    variables = {"params": {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)}}
    for read in (
        lambda: select(variables, ["a"]),
        lambda: flatten(Subset(("params.a.b",), ((1,),)), variables),
        lambda: insert(Subset(("params.a.b",), ((1,),)), variables, jnp.ones(1)),
    ):
        with pytest.raises(ValueError, match=r"same dotted name 'params\.a\.b'"):
            read()


def test_integer_leaves_are_refused() -> None:
    """They cannot go through a float32 vector; beside them floats can be chosen."""
    variables = {"params": {"a": jnp.ones(2), "n": jnp.arange(2), "flag": jnp.ones(2, bool)}}
    for pattern in ("n", "flag", "*"):
        with pytest.raises(ValueError, match="floating"):
            select(variables, [pattern])
    assert select(variables, ["a"]).dim == 2


def test_shapes_and_arrays_give_the_same_subset() -> None:
    """`jax.eval_shape` results, JAX arrays and NumPy arrays alike."""
    patterns = ["layer2.1.bn2", "batch_stats.bn1"]
    arrays = filled(small_shapes())
    subset = select(small_shapes(), patterns)
    assert select(arrays, patterns) == subset
    assert select(jax.tree.map(np.asarray, arrays), patterns) == subset


def test_insert_casts_to_each_leafs_dtype() -> None:
    """Half precision stays half precision; a vector of its values comes back exactly."""
    variables = {"params": {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(1, jnp.float16), "c": jnp.ones(1)}}
    subset = select(variables, ["*"])
    new = insert(subset, variables, jnp.array([1 / 3, 2.0, 1 / 3, 1 / 3]))
    assert [x.dtype for x in jax.tree.leaves(new)] == [jnp.bfloat16, jnp.float16, jnp.float32]
    assert float(new["params"]["a"][0]) == float(jnp.bfloat16(1 / 3))
    assert float(new["params"]["b"][0]) == float(np.float16(1 / 3))
    assert flatten(subset, new).dtype == jnp.float32
    assert_same_trees(insert(subset, variables, flatten(subset, new)), new)


def test_a_subset_goes_through_json_and_is_hashable() -> None:
    """So that it can stand in a file and be a static argument."""
    subset = select(small_shapes(), ["layer2.0", "fc"])
    back = from_json(json.loads(json.dumps(to_json(subset))))
    assert back == subset
    assert hash(back) == hash(subset)
    assert {subset: 1}[back] == 1
    assert subset != select(small_shapes(), ["fc"])


def test_insert_works_under_jit_vmap_and_grad() -> None:
    """The gradient of a sum of squares is twice the vector; every member gets its own row."""
    variables = filled(small_shapes())
    subset = select(small_shapes(), ["layer2.1.bn2", "fc"])
    vector = flatten(subset, variables)

    def squares(v: jax.Array) -> jax.Array:
        new = insert(subset, variables, v)
        return sum((jnp.sum(x**2) for x in jax.tree.leaves(new)), start=jnp.float32(0))

    np.testing.assert_allclose(jax.jit(jax.grad(squares))(vector), 2 * vector, rtol=1e-6)
    vectors = jnp.stack([vector, 2 * vector, jnp.zeros_like(vector)])
    many = jax.jit(jax.vmap(lambda v: flatten(subset, insert(subset, variables, v))))(vectors)
    np.testing.assert_array_equal(many, vectors)


def test_stack_is_the_inserted_leaves_with_a_leading_axis() -> None:
    """Row i of every leaf is what inserting vector i gives."""
    variables = filled(small_shapes())
    subset = select(small_shapes(), ["layer2.0.shortcut", "fc.weight", "batch_stats.bn1"])
    vectors = np.random.default_rng(2).normal(size=(3, subset.dim)).astype(np.float32)
    tree = stack(subset, vectors)
    assert leaf_names(tree) == list(subset.paths)
    for i, vector in enumerate(vectors):
        one = insert(subset, variables, jnp.asarray(vector))
        for path in subset.paths:
            np.testing.assert_array_equal(named(tree, path)[i], named(one, path))


def test_a_vector_or_a_tree_that_does_not_fit_is_refused() -> None:
    """Too long, too short, another net, another width."""
    variables = filled(small_shapes())
    subset = select(small_shapes(), ["fc"])
    for size in (subset.dim - 1, subset.dim + 1):
        with pytest.raises(ValueError, match=rf"\[{subset.dim}\].*\[{size}\]"):
            insert(subset, variables, jnp.zeros(size))
    wider = shapes_of(models.build("resnet18", 7, widths=(4, 8), blocks=(1, 2)))
    with pytest.raises(ValueError, match="fc"):
        flatten(subset, filled(wider))
    with pytest.raises(ValueError, match="fc"):
        insert(subset, filled(wider), jnp.zeros(subset.dim))
    with pytest.raises(ValueError, match="does not have"):
        flatten(Subset(("params.head.bias",), ((5,),)), variables)


def test_only_the_star_is_special_and_keys_may_hold_dots() -> None:
    """Brackets and question marks are letters; a key "b.c" is two components."""
    tree = {"params": {"a[0]": jnp.zeros(1), "a0": jnp.zeros(2), "b.c": jnp.zeros(3)}}
    assert select(tree, ["a[0]"]).dim == 1
    with pytest.raises(ValueError, match="matches nothing"):
        select(tree, ["a?"])
    subset = select(tree, ["b.c"])
    assert insert(subset, tree, jnp.ones(3))["params"]["b.c"].tolist() == [1.0] * 3


def test_the_last_one_is_the_highest_number_of_its_own_branch() -> None:
    """10 comes after 9; stages of other depths have their own last block."""
    blocks = {str(i): {"bn": np.zeros(i + 1)} for i in (0, 9, 10)}
    variables = {
        "params": {"layer1": blocks, "layer2": {"0": {"bn": np.zeros(2)}}, "layer3": [np.zeros(3), np.zeros(4)]}
    }
    found = select(variables, ["layer*.-1"])
    assert dict(zip(found.paths, found.shapes, strict=True)) == {
        "params.layer1.10.bn": (11,),
        "params.layer2.0.bn": (2,),
        "params.layer3.1": (4,),
    }
