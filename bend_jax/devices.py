"""Many devices: one mesh over all of them, in one process or in many, and what is placed how on it.

The mesh has a single axis. Minibatches are split over it (data parallel) and so are members; everything else is there
whole on every device. Programs are jitted over the mesh with Auto axes: XLA puts in the communication.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bend_jax.checks import SettingsError

AXIS = "devices"
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)
HEARTBEAT = 30  # seconds without a sign of life after which the others give a process up


def check() -> None:
    """Raise SettingsError where JAX finds nothing to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for JAX_PLATFORMS=cuda where jaxlib has no CUDA
        asked = os.environ.get("JAX_PLATFORMS")
        why = (str(error).splitlines() or ["this jaxlib has no such platform"])[0]
        raise SettingsError(
            f"JAX cannot start{f' with JAX_PLATFORMS={asked}' if asked else ''}: {why}; for the CPU: JAX_PLATFORMS=cpu"
        ) from None


def all_devices() -> Mesh | None:
    """One axis over every device of every process; None where there is one device only."""
    if jax.device_count() == 1:
        return None
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def count(mesh: Mesh | None) -> int:
    """How many devices share the work."""
    return mesh.size if mesh is not None else 1


def replicate(tree: Any, mesh: Mesh | None, spec: PartitionSpec = WHOLE) -> Any:
    """The arrays of a tree on the mesh: whole on every device, or their first axis SPLIT over the devices.

    With several processes, each must come with the same values.
    """
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, spec)), tree)


def like(tree: Any, other: Any) -> Any:
    """A copy of a tree whose arrays are where those of `other` are."""
    if shardings(other) is None:
        return _copied(tree)
    return jax.tree.map(lambda x, y: jnp.array(_put(x, y.sharding) if _is_shared(y) else x), tree, other)


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _put(x: Any, sharding: Any) -> Any:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # device_put takes none
        return jax.jit(lambda key: key, out_shardings=sharding)(x)
    return jax.device_put(x, sharding)


def _is_shared(x: Any) -> bool:
    return len(getattr(getattr(x, "sharding", None), "device_set", ())) > 1


def shardings(tree: Any) -> Any:
    """Where a tree's arrays are, for a program that is to leave its results there; None on a single device."""
    if not any(_is_shared(x) for x in jax.tree.leaves(tree)):
        return None
    return jax.tree.map(lambda x: x.sharding, tree)


def place_rows(tree: Any, mesh: Mesh | None, rows: int) -> Any:
    """`replicate`, SPLIT where an array's first axis has so many rows (a member each), whole where it has not."""
    return jax.tree.map(lambda x: replicate(x, mesh, SPLIT if x.shape[:1] == (rows,) else WHOLE), tree)


def multiple(number: int, mesh: Mesh | None) -> int:
    """The largest multiple of the number of devices that is at most `number`; `number` where there is none."""
    return number // count(mesh) * count(mesh) or number


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The placement of an array that is whole on every device."""
    return None if mesh is None else NamedSharding(mesh, WHOLE)


def shard_rows(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """Inside a program: an axis of every array, the first, split over the devices where it divides, else left alone."""
    if mesh is None:
        return tree
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))

    def constrain(x: Any) -> Any:
        divides = x.ndim > axis and x.shape[axis] % mesh.size == 0
        return jax.lax.with_sharding_constraint(x, split) if divides else x

    return jax.tree.map(constrain, tree)


def gather(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """Inside a program: every array whole on every device, which has computed its part along an axis. Were that not
    said, XLA would compute on every device the whole of what comes just before."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(shard_rows(tree, mesh, axis), NamedSharding(mesh, WHOLE))


def over_members(fn: Callable[..., Any], mesh: Mesh | None, members: int) -> Callable[..., Any]:
    """`fn(*arguments)` whose first `members` arguments and whose results have members as first axis, each device at
    work on its own ones. The other arguments are whole on every device; a member's program talks to no other."""
    if mesh is None:
        return fn

    def split(*arguments: Any) -> Any:
        specs = (SPLIT,) * members + (WHOLE,) * (len(arguments) - members)
        return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)(*arguments)

    return split


def to_host(tree: Any) -> Any:
    """The arrays of a tree as NumPy arrays, on every process."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
            from jax.experimental import multihost_utils

            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(one, tree)


def exchanged(tree: Any) -> Any:
    """The NumPy arrays of every process, on every process: a new first axis has a row for each. They must have the same
    shapes everywhere, and every process must call this."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: x[None], tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def broadcast_flag(flag: bool) -> bool:
    """What process 0 says, on every process."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def initialize(words: str) -> None:
    """Start this process's part of a run of many: "HOST:PORT,COUNT,INDEX", or "auto" for what the cluster's own
    environment says (Slurm, Open MPI, TPU, Kubernetes). Before anything else of JAX.

    Raises SettingsError for words that are neither, and where the others cannot be reached.
    """
    parts = [part.strip() for part in words.split(",")]
    given: dict[str, Any] = {}
    if words != "auto":
        numbers = [int(part) if part.isdigit() else -1 for part in parts[1:]]
        if len(parts) != 3 or ":" not in parts[0] or not 0 <= numbers[1] < numbers[0]:
            raise SettingsError(
                f"--distributed takes HOST:PORT,COUNT,INDEX (process INDEX, from 0, of COUNT; the coordinator is "
                f"process 0) or auto; got {words!r}"
            )
        given = {"coordinator_address": parts[0], "num_processes": numbers[0], "process_id": numbers[1]}
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"--distributed={words}: {str(error).splitlines()[0]}") from None


def abort(message: str) -> NoReturn:
    """End this process at once, with one line and exit code 1: the others, if there are any, do not answer any more."""
    print(" ".join(message.split())[:500], file=sys.stderr, flush=True)
    os._exit(1)
