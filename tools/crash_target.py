"""Two stages of a store, a small training and what is made of it, for a tool that kills them at any file event.

    ckpt-chaos run --step-regex "resumed from step (\\d+)" --checkpoint-glob "{out}/saved-*" \\
        --result-file "{out}/result" --fail-on HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL \\
        --max-points 10000 --modes before,torn -- python tools/crash_target.py {out}

`saved-STEP` appears once the state of that step is saved: whoever goes on from an earlier one has lost work. `result`
has the SHA-256 of the trees in the store and the lines of metrics.jsonl but for their times.
"""

import json
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bend_jax import links, storage, training
from bend_jax.run import progress
from bend_jax.run.config import parse

STEPS, SEGMENT, DIGEST = 60, 10, 16 * "0"
OPTIMIZER = optax.adamw(0.1)
TIMES = ("seconds", "rate")


def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
    """A quadratic with other noise in every step."""
    return jnp.sum((params - data["target"] - 0.1 * jax.random.normal(key, params.shape)) ** 2), extra


def train(out: Path, partial: storage.Partial) -> None:
    """Train to the end, from the last saved state where there is one."""
    config = parse(run_path(str(Path(__file__).parents[1] / "configs" / "default.py"))["get_config"]())
    watcher = progress.Progress(config, partial, progress.TrainingLog({}, {}, {}, {}), out / "events")
    watcher.saver.every = 0.0

    def resume(name: str, given: Any, steps: int) -> Any:
        state = watcher.resume(name, given, steps)
        print(f"resumed from step {int(state.step)}", flush=True)
        return state

    def segment(name: str, state: Any, losses: Any) -> None:
        watcher.segment(name, state, losses)
        (out / f"saved-{int(state.step)}").touch()

    step = training.make_step(loss, OPTIMIZER)
    begin = training.start(jnp.zeros(3), OPTIMIZER)
    data = {"key": jax.random.key(0), "target": jnp.arange(3.0)}
    callbacks = training.Callbacks(resume, segment, watcher.compiled)
    state = training.train("base", step, begin, data, steps=STEPS, segment=SEGMENT, callbacks=callbacks)
    watcher.publish()
    storage.save_tree(partial.output / "variables", {"params": state.params, "step": state.step})


def main(out: Path) -> None:
    """Build both stages, or go on with them, and write what they hold."""
    store = out / "store"
    base, double = (storage.entry(store, name, DIGEST) for name in ("base", "collect"))

    def make(partial: storage.Partial) -> None:
        doubled = jax.tree.map(lambda x: 2 * x, storage.load_tree(base / "variables"))
        storage.save_tree(partial.output / "checkpoints", doubled)

    storage.sweep(store)
    if storage.once(store, "base", DIGEST, {"seed": 0}, lambda partial: train(out, partial)) is not None:
        print(f"resumed from step {STEPS}")
    storage.once(store, "collect", DIGEST, {"seed": 0}, make)
    for stage, path in (("base", base), ("collect", double)):
        links.link(out, stage, path)
    trees = [storage.load_tree(out / "base" / "variables"), storage.load_tree(out / "collect" / "checkpoints")]
    lines = [
        {k: v for k, v in line.items() if k not in TIMES} for line in progress.read(base / "metrics.jsonl")["base"]
    ]
    left = sorted(path.name for path in store.iterdir())
    (out / "result").write_text(json.dumps([*map(storage.tree_digest, trees), lines, left]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
