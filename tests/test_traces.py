"""Every jitted entry is traced once for its shapes: how often nets and losses are called from Python, counted.

`member_logits` is in tests/test_ensemble.py, the knobs of generators in tests/test_generate.py.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import batch_norm, recipe, training
from bend_jax.collect import COLLECTORS, Collector
from bend_jax.evaluation import predict
from bend_jax.generate import GENERATORS
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import Bend
from bend_jax.generate.diffusion import Diffusion
from bend_jax.training import Callbacks, Examples, Model
from tests.problems import BATCH, N, Problem, dense


def counted(subset: str) -> tuple[Problem, Counter[str]]:
    """The dense net, whose functions are counted as they are called: that is, traced."""
    (apply, train_apply, init, _), variables, chosen, examples = dense(subset)
    assert train_apply is not None
    calls: Counter[str] = Counter()

    def spy(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            calls[name] += 1
            return fn(*given)

        return called

    model = Model(spy("apply", apply), spy("train_apply", train_apply), init)
    seen = Examples(examples.images, examples.labels, spy("view", examples.view), examples.plain)
    return (model, variables, chosen, seen), calls


@pytest.mark.parametrize("convolves", [False, True])
def test_a_training_traces_its_step_once(convolves: bool) -> None:
    """Whatever the number of segments and parts of them, in a scan and in a loop; what follows a segment too."""
    calls: Counter[str] = Counter()

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> Any:
        calls["loss"] += 1
        kernel = params[:, None, None]
        out = jax.lax.conv(data["x"][:, None], kernel, (1,), "SAME") if convolves else data["x"] * params.sum()
        return jnp.mean(out**2), extra

    def after(state: Any, data: Any) -> Any:
        calls["after"] += 1
        return state

    tx = recipe.sgd(0.01, 0.9, 0.0)
    state = training.start(jnp.ones(3), tx)
    data = {"key": jax.random.key(0), "x": jnp.ones((2, 5))}
    step = training.make_step(loss, tx)
    found = training.train("t", step, state, data, steps=23, segment=10, longest=4, after=after)
    assert int(found.step) == 23
    assert calls == {"loss": 1, "after": 1}


def test_an_evaluation_traces_the_net_as_often_for_many_batches_as_for_one() -> None:
    """The last batch, too, has the shape of the first; views and weighted votes are of one program."""
    seen = []
    for batch in (20, 7):
        (model, variables, chosen, examples), calls = counted("last.bias")
        vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
        sets, ask = {"a": vectors[:1], "b": vectors}, lambda rows, view: examples.images[rows]  # noqa: B023
        predict.predict(model.apply, variables, chosen, sets, ask, 20, batch=batch, views=("x", "y"))
        seen.append(calls)
    assert seen[0] == seen[1]


def test_statistics_are_measured_by_one_program() -> None:
    """For any number of members."""
    seen = []
    for m in (1, 4):
        (model, variables, chosen, examples), calls = counted("*")
        vectors = jnp.ones((m, chosen.dim))
        batch_norm.recompute(model, variables, chosen, vectors, examples, jax.random.key(0), N, BATCH)
        seen.append(calls)
    assert seen[0] == seen[1]


SHORT = {"epochs": 1} | {"views": 1, "batch": BATCH}
LONG = {"epochs": 3} | {"views": 3, "batch": BATCH}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "trajectory": ({"k": 2, "views": 1, "batch": BATCH}, {"k": 4, "views": 3, "batch": BATCH}),
    "bootstrap": ({"k": 2, **SHORT}, {"k": 5, **LONG}),
    "boosting": ({"k": 2, **SHORT}, {"k": 4, **LONG}),
}


@pytest.mark.parametrize(
    ("pattern", "name"), [("last.bias", "trajectory"), ("last.bias", "bootstrap"), ("*", "boosting")]
)
def test_a_collector_traces_as_often_for_many_checkpoints_as_for_few(pattern: str, name: str) -> None:
    """Epochs, views, chunks of members and of images are steps of the same programs."""
    seen = []
    for values in SIZES[name]:
        problem, calls = counted(pattern)
        settings: Collector = type(COLLECTORS[name].settings)(**values)
        callbacks = Callbacks(memory=60_000)
        COLLECTORS[name].collect(*problem, jax.random.key(1), settings, callbacks=callbacks)
        seen.append(calls)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_second_draw_is_not_traced_again(name: str) -> None:
    """Another key, the same m: no new program."""
    coder = Autoencoder(kind="pca", latent=2)
    diffusion = Diffusion(steps=1, segment=1, timesteps=100)
    own: dict[str, Any] = {"bend": {"autoencoder": coder, "diffusion": diffusion}}
    own |= {"random_latent": {"autoencoder": coder}, "autoencoder": {"autoencoder": coder}}
    settings = Bend(**own["bend"]) if name == "bend" else type(GENERATORS[name].settings)(**own.get(name, {}))
    vectors = jax.random.normal(jax.random.key(0), (16, 4))
    fitted = GENERATORS[name].fit(vectors, jax.random.key(1), settings)
    draw = GENERATORS[name].sample
    jax.block_until_ready(draw(fitted, jax.random.key(2), 5))
    traced: list[str] = []
    listen = lambda event, seconds, **more: traced.append(event) if "trace" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(draw(fitted, jax.random.key(3), 5))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert traced == []
