"""Networks of a library with modules: a Flax NNX or an Equinox module as a pure function and its variables.

Neither library is imported here: a module of one can only come where the user has imported it.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bend_jax.checks import SettingsError
from bend_jax.training import Model


def read_network(
    network: Any,
    data: tuple[Any, ...],
    train_apply: Callable[..., Any] | None = None,
    init: Callable[..., Any] | None = None,
) -> tuple[Model, Any, tuple[Any, ...]]:
    """(functions, variables, the rest of data) of a network as `fit` takes it: a module, or apply and its variables,
    which are then the first of data. init of a module: key -> module. Raises SettingsError."""
    if isinstance(network, type):
        raise SettingsError(f"{network.__name__} is a class: give an instance of it, the trained network")
    found = adapt(network)
    if found is None:
        if not callable(network) or _is(network, "flax.linen", "Module") or not data:
            raise SettingsError(
                "the network is a Flax NNX module, an Equinox module or (module, state), or a function apply(variables,"
                f" images) -> logits followed by its variables; got {type(network).__name__} and {len(data)} more (of "
                "Flax linen and Haiku give module.apply and the variables)"
            )
        return Model(network, train_apply, init), data[0], data[1:]
    model, variables = found
    if train_apply is not None:
        raise SettingsError("train_apply comes with the module: leave it out, or give apply and variables instead")
    if init is not None:
        model = model._replace(init=lambda key: _variables_of(init(key)))
    return model, variables, data


def _variables_of(module: Any) -> Any:
    found = adapt(module)
    if found is None:
        raise SettingsError(f"init(key) of a module gives a module; got {type(module).__name__}")
    return found[1]


def adapt(network: Any) -> tuple[Model, Any] | None:
    """(functions, variables) of an NNX module, an Equinox module or an Equinox (module, state); None for all else.

    Modules run in inference mode. Where the inputs are a tuple they are the arguments of the module's call; else the
    call has one argument. The given module is not changed.

    - NNX: {"params": ..., "batch_stats": ..., "others": ...} as nested dicts, with the names of the attributes and the
      numbers of lists. train_apply runs in training mode, with random numbers from its key. Random states that the
      module holds are no variables.
    - Equinox: {"params": the module's floating-point arrays, "others": its other arrays, "state": ...}; the call takes
      one example, and is vmapped. A `key` without a default gets a fixed one: nothing is random in inference mode.
    """
    if _is(network, "flax.nnx", "Module"):
        return _of_nnx(network, sys.modules["flax.nnx"])
    module, state = network if isinstance(network, tuple) and len(network) == 2 else (network, None)
    if _is(module, "equinox", "Module"):
        return _of_equinox(module, state, sys.modules["equinox"])
    return None


def _is(value: Any, library: str, name: str) -> bool:
    """Whether it is an instance of a class of a library that may not be there."""
    kind = getattr(sys.modules.get(library), name, None)
    return kind is not None and isinstance(value, kind)


def _arguments(inputs: Any) -> tuple[Any, ...]:
    return inputs if type(inputs) is tuple else (inputs,)


def _has_key(leaf: Any) -> bool:
    """Whether it is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# ---- Flax NNX


def _of_nnx(module: Any, nnx: Any) -> tuple[Model, Any]:
    modes = {name: nnx.clone(module) for name in ("eval", "train")}
    for name, copy in modes.items():
        getattr(copy, name)()
    graphs = {name: nnx.split(copy)[0] for name, copy in modes.items()}
    state = nnx.split(modes["eval"])[1]
    structure, leaves, names = jax.tree.structure(state), jax.tree.leaves(state), _nnx_names(state, nnx)

    def build(mode: str, variables: Any, key: Any = None) -> Any:
        own = [leaf if name is None else _get(variables, name) for name, leaf in zip(names, leaves, strict=True)]
        if key is not None:
            own = [
                jax.random.fold_in(x, jax.random.bits(jax.random.fold_in(key, i))) if _has_key(x) and not x.ndim else x
                for i, x in enumerate(own)
            ]
        return nnx.merge(graphs[mode], jax.tree.unflatten(structure, own))

    def apply(variables: Any, inputs: Any) -> Any:
        return build("eval", variables)(*_arguments(inputs))

    def train_apply(variables: Any, inputs: Any, key: Any) -> Any:
        built = build("train", variables, key)
        logits = built(*_arguments(inputs))
        moved = nnx.state(built, nnx.BatchStat)
        return logits, variables | _nest(_nnx_names(moved, nnx), jax.tree.leaves(moved))

    return Model(apply, train_apply), _nest(names, leaves)


def _nnx_names(state: Any, nnx: Any) -> list[tuple[str, ...] | None]:
    """Of every leaf: collection, then the module's attributes; None for random states."""
    kinds = ((nnx.RngState, None), (nnx.Param, "params"), (nnx.BatchStat, "batch_stats"), (nnx.Variable, "others"))
    found: list[tuple[str, ...] | None] = []
    pairs: list[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(
        state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    for path, variable in pairs:
        collection = next((name for kind, name in kinds if isinstance(variable, kind)), "others")
        inner = jax.tree.leaves(variable)
        words = [str(getattr(entry, "key", entry)) for entry in path]
        for i in range(len(inner)):
            more = [] if len(inner) == 1 else [str(i)]
            found.append(None if collection is None else (collection, *words, *more))
    return found


def _nest(names: list[tuple[str, ...] | None], leaves: list[Any]) -> dict[str, Any]:
    """The named leaves as nested dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in zip(names, leaves, strict=True):
        if name is not None:
            node = tree
            for word in name[:-1]:
                node = node.setdefault(word, {})
            node[name[-1]] = leaf
    return tree


def _get(tree: Any, name: tuple[str, ...]) -> Any:
    for word in name:
        tree = tree[word]
    return tree


# ---- Equinox


def _of_equinox(module: Any, state: Any, eqx: Any) -> tuple[Model, Any]:
    params, rest = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)
    others, static = eqx.partition(rest, lambda x: eqx.is_array(x) and not _has_key(x))
    trees = {"params": params, "others": others, "state": state}
    variables = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    asked = inspect.signature(type(module).__call__).parameters.get("key")
    needs_key = asked is not None and asked.default is inspect.Parameter.empty
    more = {"key": jax.random.key(0)} if needs_key else {}

    def apply(variables: Any, inputs: Any) -> Any:
        own = [variables[name] for name in ("params", "others") if name in variables]
        built = eqx.combine(*own, static)

        def one(*arguments: Any) -> Any:
            if state is None:
                return built(*arguments, **more)
            return built(*arguments, variables.get("state", state), **more)[0]

        try:
            return jax.vmap(one)(*_arguments(inputs))
        except (TypeError, ValueError) as error:
            what = str(error).strip().split("\n")[0]
            raise SettingsError(
                f"{what} (an Equinox module is called with one example, without a batch axis)"
            ) from None

    return Model(apply), variables
