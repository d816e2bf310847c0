"""Which computation: cut a program into what depends on its first argument and what depends on its inputs alone.

The program `fn(params, *inputs)` is traced to a jaxpr. Each of its equations is put into one of three classes:

    params   its value depends on the params          -> the suffix, run once for each params
    input    it depends on the inputs (images) only   -> the prefix, run once for each image
    constant it depends on neither (the frozen net)   -> whichever half needs it

In an ensemble the params are a member's vector. The features are the `input` values that the suffix reads. Inlined:
jit, closed_call and remat. Kept whole: custom derivative rules (inlining would drop the rule), scan, while and cond.
One of these that reads the params belongs to the suffix as a whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from bend_jax import small_maps
from bend_jax.batching import for_one, named_leaves, one_of

INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CONSTANT, INPUT, PARAMS = 0, 1, 2


@dataclass(frozen=True)
class _Slot:
    """A value of the flattened program: eqn results, constants and arguments all have a number."""

    number: int


@dataclass(frozen=True, eq=False)
class _Step:
    """One equation: a primitive bound to slots or literal values."""

    primitive: Any
    params: dict[str, Any]
    reads: tuple[Any, ...]
    writes: tuple[_Slot, ...]
    avals: tuple[Any, ...]
    has_effects: bool
    is_dense: bool = False  # a convolution that runs as a dense product (`small_maps`)


class _Program(NamedTuple):
    """One flat list of steps, with the values that the traced function closed over."""

    steps: list[_Step]
    constants: dict[int, Any]
    avals: list[Any]


def _slot(program: _Program, aval: Any) -> _Slot:
    program.avals.append(aval)
    return _Slot(len(program.avals) - 1)


def _append(program: _Program, closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """Append a jaxpr, inlining the calls that only wrap a body; returns its outputs as slots or literals."""
    jaxpr, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    names: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        names[variable] = _slot(program, variable.aval)
        program.constants[names[variable].number] = value

    def read(atom: Any) -> Any:
        return atom if isinstance(atom, core.Literal) else names[atom]

    for eqn in jaxpr.eqns:
        reads = tuple(read(atom) for atom in eqn.invars)
        if eqn.primitive.name in INLINED:
            body = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            names.update(zip(eqn.outvars, _append(program, body, reads), strict=True))
            continue
        avals = tuple(variable.aval for variable in eqn.outvars)
        writes = tuple(_slot(program, aval) for aval in avals)
        names.update(zip(eqn.outvars, writes, strict=True))
        program.steps.append(_Step(eqn.primitive, dict(eqn.params), reads, writes, avals, bool(eqn.effects)))
    return [read(atom) for atom in jaxpr.outvars]


class _Traced(NamedTuple):
    """A program with the slots of its arguments' leaves, its outputs, and the tree that the outputs form."""

    program: _Program
    params: list[_Slot]
    inputs: list[_Slot]
    outputs: list[Any]
    out_tree: Any


def _trace(fn: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> _Traced:
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(params, *inputs)
    program = _Program([], {}, [])
    arguments = [_slot(program, variable.aval) for variable in closed.jaxpr.invars]
    outputs = _append(program, closed, arguments)
    count = len(jax.tree.leaves(params))
    return _Traced(program, arguments[:count], arguments[count:], outputs, jax.tree.structure(shapes))


class _Half(NamedTuple):
    """One half of a split: the steps to run and the slots that its arguments, constants and outputs stand in."""

    steps: tuple[_Step, ...]
    arguments: tuple[_Slot, ...]
    outputs: tuple[Any, ...]
    constants: tuple[int, ...]
    avals: tuple[Any, ...]


def _run(half: _Half, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    _check_shapes(half, arguments)
    values: dict[int, Any] = dict(zip(half.constants, constants, strict=True))
    values.update((slot.number, value) for slot, value in zip(half.arguments, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom.number]

    for step in half.steps:
        results = _bind(step, [read(atom) for atom in step.reads])
        values.update((slot.number, result) for slot, result in zip(step.writes, results, strict=True))
    return [read(atom) for atom in half.outputs]


def _check_shapes(half: _Half, arguments: Sequence[Any]) -> None:
    got = [_kind(x) for x in arguments]
    expected = [_kind(aval) for aval in half.avals]
    if got != expected:
        raise ValueError(
            f"this split was traced for {', '.join(expected)} and got {', '.join(got)}: split again for these, "
            "or, where only the batch size differs, split with any_batch=True"
        )


def _kind(x: Any) -> str:
    """Shape and dtype as JAX will see them."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return f"{dtype}{list(jnp.shape(x))}"


def _bind(step: _Step, values: list[Any]) -> Sequence[Any]:
    if step.is_dense:
        return [small_maps.convolve(values[0], values[1], step.avals[0].shape, step.params)]
    params = step.primitive.get_bind_params(step.params)
    functions, named = params if isinstance(params, tuple) else ((), params)
    result = step.primitive.bind(*functions, *values, **named)
    return result if step.primitive.multiple_results else [result]


def _classes(program: _Program, params: Sequence[_Slot], inputs: Sequence[_Slot]) -> tuple[list[int], list[int]]:
    """The class of every slot and of every step: its highest operand's; a step with effects belongs to the suffix."""
    slots = [CONSTANT] * len(program.avals)
    for slot in inputs:
        slots[slot.number] = INPUT
    for slot in params:
        slots[slot.number] = PARAMS
    steps: list[int] = []
    for step in program.steps:
        operands = [slots[a.number] for a in step.reads if isinstance(a, _Slot)]
        steps.append(PARAMS if step.has_effects else max(operands, default=CONSTANT))
        for slot in step.writes:
            slots[slot.number] = steps[-1]
    return slots, steps


def _needed(steps: Sequence[_Step], outputs: Sequence[Any]) -> tuple[list[_Step], list[int]]:
    """Those of the steps that the outputs need, and the slots that are read but written by none of them."""
    wanted = {a.number for a in outputs if isinstance(a, _Slot)}
    kept: list[_Step] = []
    for step in reversed(steps):
        if step.has_effects or any(s.number in wanted for s in step.writes):
            kept.append(step)
            wanted.update(a.number for a in step.reads if isinstance(a, _Slot))
    written = {s.number for step in kept for s in step.writes}
    return kept[::-1], sorted(wanted - written)


def _plan(traced: _Traced) -> tuple[_Half, _Half]:
    program, params, inputs, outputs, _ = traced
    slots, classes = _classes(program, params, inputs)
    pairs = [(_densified(step, program, slots), c) for step, c in zip(program.steps, classes, strict=True)]
    suffix_steps, outside = _needed([step for step, c in pairs if c != INPUT], outputs)
    features = [_Slot(i) for i in outside if slots[i] == INPUT]
    prefix_steps, behind = _needed([step for step, c in pairs if c != PARAMS], features)
    prefix = _Half(
        steps=tuple(prefix_steps),
        arguments=tuple(inputs),
        outputs=tuple(features),
        constants=tuple(i for i in behind if i in program.constants),
        avals=tuple(program.avals[slot.number] for slot in inputs),
    )
    suffix = _Half(
        steps=tuple(suffix_steps),
        arguments=(*params, *features),
        outputs=tuple(outputs),
        constants=tuple(i for i in outside if i in program.constants),
        avals=tuple(program.avals[slot.number] for slot in (*params, *features)),
    )
    return prefix, suffix


def _densified(step: _Step, program: _Program, slots: Sequence[int]) -> _Step:
    """A convolution of few pixels by a constant kernel as one that runs as a dense product; any other step as it is."""
    if step.primitive.name != "conv_general_dilated" or not all(isinstance(a, _Slot) for a in step.reads):
        return step
    images, kernel = (program.avals[a.number].shape for a in step.reads)
    is_constant = slots[step.reads[1].number] == CONSTANT
    return replace(step, is_dense=is_constant and small_maps.is_small(images, kernel, step.avals[0].shape, step.params))


class Cut(NamedTuple):
    """A split and what it costs. Both halves are pytrees whose leaves are the constants they need.

    With any_batch the shapes and bytes are those of one example.
    """

    prefix: Callable[..., Any]
    suffix: Callable[..., Any]
    feature_shapes: tuple[tuple[int, ...], ...]  # of what the prefix returns
    feature_dtypes: tuple[Any, ...]
    feature_bytes: int
    suffix_bytes: int  # everything that one call of the suffix writes: what a member costs in memory, at most
    has_vector_kernel: bool  # a convolution's kernel depends on the params: vmap would make it a grouped one


def cut(fn: Callable[..., Any], params: Any, *inputs: Any, any_batch: bool = False) -> Cut:
    """`split` and the facts that chunk sizes are chosen by. Arguments and errors are those of `split`."""
    if any_batch:
        fn, inputs = for_one(fn), one_of(inputs)
    traced = _trace(fn, params, inputs)
    prefix, suffix = _plan(traced)
    params_tree, in_tree = jax.tree.structure(params), jax.tree.structure(inputs)
    features, out_tree = suffix.avals[len(traced.params) :], traced.out_tree
    if any_batch and not features:
        raise ValueError("no output reads the inputs, so that the suffix cannot know the batch size: drop any_batch")

    def run_prefix(constants: Sequence[Any], *inputs: Any) -> tuple[Any, ...]:
        run = partial(_run, prefix, constants)
        leaves = _leaves(inputs, in_tree, "inputs")
        return tuple(jax.vmap(run)(leaves) if any_batch else run(leaves))

    def run_suffix(constants: Sequence[Any], params: Any, features: Sequence[Any]) -> Any:
        own = _leaves(params, params_tree, "params")

        def run(features: Sequence[Any]) -> list[Any]:
            return _run(suffix, constants, [*own, *features])

        return jax.tree.unflatten(out_tree, jax.vmap(run)(features) if any_batch else run(features))

    constants = traced.program.constants
    return Cut(
        prefix=jax.tree_util.Partial(run_prefix, [constants[i] for i in prefix.constants]),
        suffix=jax.tree_util.Partial(run_suffix, [constants[i] for i in suffix.constants]),
        feature_shapes=tuple(tuple(aval.shape) for aval in features),
        feature_dtypes=tuple(aval.dtype for aval in features),
        feature_bytes=sum(_bytes(aval) for aval in features),
        suffix_bytes=_written(suffix.steps),
        has_vector_kernel=_has_vector_kernel(suffix, traced.params),
    )


def split(
    fn: Callable[..., Any], params: Any, *inputs: Any, any_batch: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cut `fn(params, *inputs)` into `(prefix, suffix)` with `suffix(params, prefix(*inputs)) == fn(params, *inputs)`.

    fn: any pure JAX function. params: what varies, as any pytree: a vector [dim], a dict of arrays, an NNX state.
    inputs: any pytrees. Leaves are arrays or `jax.ShapeDtypeStruct`s. What fn closes over is constant. The prefix
    returns a tuple of arrays. Both halves are pytrees (`jax.tree_util.Partial`) whose leaves are the constants they
    need: pass them to a jitted function as arguments, and nothing of the frozen net is baked into the program. For m
    members, vmap the suffix over the params alone.

    A pair is valid for the traced shapes and trees. Other shapes or trees raise ValueError.

    any_batch: fn is traced for one example, inputs [1, ...], and both halves are vmapped over examples. They then take
    inputs [n, ...] and give features and outputs [n, ...] for every n, without a second call of fn. This needs a
    program that treats its examples one by one, so that row i of the output depends on row i of the inputs alone.
    ValueError where the inputs share no leading axis, where an output of one example is not one row, and where no
    output reads the inputs. Shapes do not show an output that mixes examples: `batching.batch_dependence` does.
    """
    return cut(fn, params, *inputs, any_batch=any_batch)[:2]


def unread(fn: Callable[..., Any], params: Any, *inputs: Any) -> tuple[str, ...]:
    """The leaves of params that no output of `fn(params, *inputs)` reads, by name (`jax.tree_util.keystr`).

    Leaves of params and inputs are arrays or `jax.ShapeDtypeStruct`s: fn is traced and nothing is computed. A params
    that is a single array has the name "". A leaf that is multiplied by zero is read. A loop, a branch or a custom
    rule reads all that it is given. So a leaf without effect may be missing here, but each one named has none.
    """
    traced = _trace(fn, params, inputs)
    _, read = _needed([replace(step, has_effects=False) for step in traced.program.steps], traced.outputs)
    pairs = zip(named_leaves(params), traced.params, strict=True)
    return tuple(name for (name, _), slot in pairs if slot.number not in read)


def _leaves(tree: Any, expected: Any, name: str) -> list[Any]:
    leaves, found = jax.tree.flatten(tree)
    if found != expected:
        raise ValueError(f"this split was traced for {name} of structure {expected} and got {found}")
    return leaves


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def _written(steps: Sequence[Any]) -> int:
    """Bytes that equations write, those inside of loops, branches and custom rules included (one iteration of each)."""
    total = 0
    for step in steps:
        avals = step.avals if isinstance(step, _Step) else [variable.aval for variable in step.outvars]
        total += sum(_bytes(aval) for aval in avals) + sum(_written(body.eqns) for body in _bodies(step.params))
    return total


def _bodies(params: dict[str, Any]) -> list[Any]:
    """The jaxprs that an equation holds among its parameters."""
    values = jax.tree.leaves(params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
    inner = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in inner if hasattr(value, "eqns")]


def _has_convolution(step: Any) -> bool:
    return step.primitive.name == "conv_general_dilated" or any(
        _has_convolution(eqn) for body in _bodies(step.params) for eqn in body.eqns
    )


def _has_vector_kernel(suffix: _Half, params: Sequence[_Slot]) -> bool:
    """Also true where a loop, a branch or a custom rule with a convolution in it reads the params: it may be."""
    varying = {slot.number for slot in params}
    for step in suffix.steps:
        reads = [isinstance(a, _Slot) and a.number in varying for a in step.reads]
        is_convolution = step.primitive.name == "conv_general_dilated"
        if is_convolution and reads[1]:
            return True
        if not is_convolution and any(reads) and _has_convolution(step):
            return True
        if any(reads):
            varying.update(s.number for s in step.writes)
    return False
