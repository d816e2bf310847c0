"""A small training whose state is saved as that of a running stage, for a tool that kills it at any file event.

    ckpt-chaos run --step-regex "resumed from step (\\d+)" --checkpoint-glob "{out}/saved-*" \\
        --result-file "{out}/result" --fail-on HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL \\
        -- python tools/crash_target.py {out}

`saved-STEP` appears once the state of that step is saved: whoever goes on from an earlier one has lost work. `result`
has the SHA-256 of the last state and the lines of metrics.jsonl but for their times.
"""

import json
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bend_jax import storage, training
from bend_jax.run import progress
from bend_jax.run.config import parse

STEPS, SEGMENT = 60, 10
OPTIMIZER = optax.adamw(0.1)
TIMES = ("seconds", "rate")


def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
    """A quadratic with other noise in every step."""
    return jnp.sum((params - data["target"] - 0.1 * jax.random.normal(key, params.shape)) ** 2), extra


def main(out: Path) -> None:
    """Train to the end, from the last saved state where there is one."""
    config = parse(run_path(str(Path(__file__).parents[1] / "configs" / "default.py"))["get_config"]())
    out.mkdir(parents=True, exist_ok=True)
    log = progress.TrainingLog({}, {}, {}, {})
    watcher = progress.Progress(config, storage.Partial(out, out / "state"), log, out / "events")
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
    digest = storage.tree_digest([np.asarray(state.params), np.asarray(state.step)])
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in progress.read(watcher.metrics)["base"]]
    (out / "result").write_text(json.dumps([digest, lines]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
