"""Which computation: cut a program into what depends on the vector and what depends on the images alone.

The program is traced to a jaxpr and each of its equations is put into one of three classes:

    vector   its value depends on the vector          -> the suffix, run once a member
    input    it depends on the inputs (images) only   -> the prefix, run once an image
    constant it depends on neither (the frozen net)   -> whichever half needs it

The features are the `input` values that the suffix reads. Inlined: jit, closed_call and remat. Kept whole: custom
derivative rules (inlining would drop the rule), scan, while and cond; one that reads the vector is suffix as a whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CONSTANT, INPUT, VECTOR = 0, 1, 2


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
            "or split for one image and vmap both halves over images"
        )


def _kind(x: Any) -> str:
    """Shape and dtype as JAX will see them."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return f"{dtype}{list(jnp.shape(x))}"


def _bind(step: _Step, values: list[Any]) -> Sequence[Any]:
    params = step.primitive.get_bind_params(step.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    result = step.primitive.bind(*functions, *values, **params)
    return result if step.primitive.multiple_results else [result]


def _classes(program: _Program, vector: _Slot, inputs: Sequence[_Slot]) -> tuple[list[int], list[int]]:
    """The class of every slot and of every step: its highest operand's; a step with effects belongs to the suffix."""
    slots = [CONSTANT] * len(program.avals)
    slots[vector.number] = VECTOR
    for slot in inputs:
        slots[slot.number] = INPUT
    steps = []
    for step in program.steps:
        operands = [slots[a.number] for a in step.reads if isinstance(a, _Slot)]
        steps.append(VECTOR if step.has_effects else max(operands, default=CONSTANT))
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


def _plan(program: _Program, vector: _Slot, inputs: Sequence[_Slot], outputs: Sequence[Any]) -> tuple[_Half, _Half]:
    slots, classes = _classes(program, vector, inputs)
    pairs = list(zip(program.steps, classes, strict=True))
    suffix_steps, outside = _needed([step for step, c in pairs if c != INPUT], outputs)
    features = [_Slot(i) for i in outside if slots[i] == INPUT]
    prefix_steps, behind = _needed([step for step, c in pairs if c != VECTOR], features)
    prefix = _Half(
        steps=tuple(prefix_steps),
        arguments=tuple(inputs),
        outputs=tuple(features),
        constants=tuple(i for i in behind if i in program.constants),
        avals=tuple(program.avals[slot.number] for slot in inputs),
    )
    suffix = _Half(
        steps=tuple(suffix_steps),
        arguments=(vector, *features),
        outputs=tuple(outputs),
        constants=tuple(i for i in outside if i in program.constants),
        avals=tuple(program.avals[slot.number] for slot in (vector, *features)),
    )
    return prefix, suffix


class Cut(NamedTuple):
    """A split and what it costs. Both halves are pytrees whose leaves are the constants they need."""

    prefix: Callable[..., Any]
    suffix: Callable[..., Any]
    feature_shapes: tuple[tuple[int, ...], ...]  # of what the prefix returns
    feature_bytes: int
    suffix_bytes: int  # everything that one call of the suffix writes: what a member costs in memory, at most
    has_vector_kernel: bool  # a convolution's kernel depends on the vector: vmap would make it a grouped one


def cut(fn: Callable[..., Any], vector: Any, *inputs: Any) -> Cut:
    """`split` and the facts that chunk sizes are chosen by."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(vector, *inputs)
    program = _Program([], {}, [])
    arguments = [_slot(program, variable.aval) for variable in closed.jaxpr.invars]
    if len(jax.tree.leaves(vector)) != 1:
        raise ValueError("the vector must be one array")
    outputs = _append(program, closed, arguments)
    prefix, suffix = _plan(program, arguments[0], arguments[1:], outputs)
    in_tree, out_tree = jax.tree.structure(inputs), jax.tree.structure(shapes)

    def run_prefix(constants: Sequence[Any], *inputs: Any) -> tuple[Any, ...]:
        leaves, tree = jax.tree.flatten(inputs)
        if tree != in_tree:
            raise ValueError(f"this split was traced for inputs of structure {in_tree} and got {tree}")
        return tuple(_run(prefix, constants, leaves))

    def run_suffix(constants: Sequence[Any], vector: Any, features: Sequence[Any]) -> Any:
        return jax.tree.unflatten(out_tree, _run(suffix, constants, [vector, *features]))

    return Cut(
        prefix=jax.tree_util.Partial(run_prefix, [program.constants[i] for i in prefix.constants]),
        suffix=jax.tree_util.Partial(run_suffix, [program.constants[i] for i in suffix.constants]),
        feature_shapes=tuple(tuple(aval.shape) for aval in suffix.avals[1:]),
        feature_bytes=sum(_bytes(aval) for aval in suffix.avals[1:]),
        suffix_bytes=_written(suffix.steps),
        has_vector_kernel=_has_vector_kernel(suffix),
    )


def split(fn: Callable[..., Any], vector: Any, *inputs: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cut `fn(vector, *inputs)` into `(prefix, suffix)` with `suffix(vector, prefix(*inputs)) == fn(vector, *inputs)`.

    fn: any pure JAX function; vector: [dim], an array or a `jax.ShapeDtypeStruct`; inputs: trees of the same. What
    fn closes over is constant. Both halves are pytrees (`jax.tree_util.Partial`) whose leaves are the constants they
    need: pass them to a jitted function as arguments and nothing of the frozen net is baked into the program.

    Valid for the traced shapes only (ValueError otherwise). Where batch sizes vary, split for one image and vmap both
    halves over images; for m members, vmap the suffix over vectors alone.
    """
    return cut(fn, vector, *inputs)[:2]


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


def _has_vector_kernel(suffix: _Half) -> bool:
    """Also true where a loop, a branch or a custom rule with a convolution in it reads the vector: it may be."""
    varying = {suffix.arguments[0].number}
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
