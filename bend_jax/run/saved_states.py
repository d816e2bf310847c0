"""States of running trainings on disk: a killed run goes on from the last one that is whole."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bend_jax import devices, storage


class StateSaver:
    """Saves and resumes the complete states of running trainings, each by its name.

    They are orbax CheckpointManagers under `directory`, written at most once in `every` seconds for each training. A
    state is saved with a SHA-256 of its own bytes: one that does not match is passed over for the one before.
    """

    def __init__(self, directory: Path, every: float) -> None:
        self.directory, self.every = directory, every
        self._managers: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def resume(self, name: str, state: Any) -> tuple[Any, float]:
        """The last saved state or the one given, and the seconds that were saved with it."""
        self._last[name] = time.monotonic()
        if not (self.directory / name).is_dir():
            return state, 0.0
        manager = self._manager(name)
        for step in sorted(manager.all_steps(), reverse=True):
            found = self._restore(manager, step, state)
            if found is not None:
                return found
            manager.delete(step)  # the training will come to this step again
        return state, 0.0

    def save(self, name: str, state: Any, seconds: float, *, now: bool = False) -> None:
        """Save a state, where the last save is long enough ago or it has to be now."""
        import orbax.checkpoint as ocp

        if not self.is_due(name, now=now):
            return
        leaves = devices.to_host(jax.tree.leaves(state))
        content = {
            "leaves": {str(i): x for i, x in enumerate(leaves)},
            "sha256": storage.fingerprint(leaves),
            "seconds": np.float64(seconds),
        }
        step = int(state.step)
        with storage.writing(self.directory / name):
            if not self._manager(name).save(step, args=ocp.args.StandardSave(content), force=True):
                raise RuntimeError(f"the state of {name} at step {step} was not saved")
        self._last[name] = time.monotonic()

    def is_due(self, name: str, *, now: bool = False) -> bool:
        """Whether `save` saves, in all processes alike."""
        return devices.broadcast_flag(now or time.monotonic() - self._last.get(name, 0.0) >= self.every)

    def _manager(self, name: str) -> Any:
        import orbax.checkpoint as ocp

        if name not in self._managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
            self._managers[name] = ocp.CheckpointManager((self.directory / name).absolute(), options=options)
        return self._managers[name]

    def _restore(self, manager: Any, step: int, state: Any) -> tuple[Any, float] | None:
        """The state that was saved at a step and its seconds; None where it is damaged or of another training."""
        import orbax.checkpoint as ocp

        leaves, tree = jax.tree.flatten(state)
        try:
            saved = manager.restore(step, args=ocp.args.StandardRestore())
        except Exception:  # noqa: BLE001  a damaged checkpoint can raise anything; the one before may be whole
            return None
        found = [saved["leaves"].get(str(i)) for i in range(len(leaves))]
        fits = all(x is not None and _rows_aside(x) == _rows_aside(y) for x, y in zip(found, leaves, strict=True))
        if not fits or not np.array_equal(storage.fingerprint(found), saved["sha256"]):
            return None
        return jax.tree.unflatten(tree, found), float(saved["seconds"])


def _rows_aside(x: Any) -> tuple[int, ...]:
    """The shape but for the length of the first axis: how many members are trained at once hangs on the devices."""
    return (x.ndim, *x.shape[1:])
