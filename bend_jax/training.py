"""One loss contract, one compiled segment: how the base, the collectors, the autoencoder and the DDPM are trained."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from bend_jax import devices, recipe
from bend_jax.batching import rows
from bend_jax.minibatches import batch_of, shuffled
from bend_jax.recipe import Base, cross_entropy
from bend_jax.subset import Subset

SEGMENT = 100  # steps between two checks and saves, at most
MIX_KEY = 2**31  # folded into a step's key where a minibatch is mixed; the keys of images are below it
MEMORY = 2**30  # bytes of intermediates in one program, where nothing else is said


class Model(NamedTuple):
    """A network as collectors take it. Images are as `apply` takes them.

    - apply(variables, images) -> logits [n, classes]: pure, in inference mode.
    - train_apply(variables, images, key) -> (logits, variables): with BN statistics updated.
    - init(key) -> variables: fresh random ones.
    - loss(logits [n, classes], labels) -> [n]: what trainings minimise the mean of; None: cross-entropy.
    """

    apply: Callable[..., Any]
    train_apply: Callable[..., Any] | None = None
    init: Callable[..., Any] | None = None
    loss: Callable[..., Any] | None = None


class Examples(NamedTuple):
    """Labelled images as they are stored, and how they become what a model's apply takes.

    labels: whole numbers, or a probability for each class, such as other networks' vote (Hinton et al. 2015).
    images: a tree of arrays [n, ...], such as a lone array, or tokens and their mask.
    view(keys [n], images [n, ...], index): augmented, one key an image; index tells which view of its images it is,
    where a training goes through several in turn. plain(images): not augmented.
    are_features: the images are what the frozen part made of them already, so that no other cache of it is kept.
    """

    images: Any
    labels: Int[Array, " n"] | Float[Array, "n classes"]
    view: Callable[..., Any]
    plain: Callable[..., Any]
    are_features: bool = False


class NonFiniteError(FloatingPointError):
    """A NaN or Inf: `what` (loss, gradients, latents, members) of `name` at `step`."""

    def __init__(self, name: str, what: str, step: int | None = None) -> None:
        at = "" if step is None else f" at step {step}"
        super().__init__(f"{name}: NaN or Inf in the {what}{at}")
        self.name, self.what, self.step = name, what, step


class Callbacks(NamedTuple):
    """Callbacks of a training run, and the memory and devices that it may use; the default does nothing.

    - resume(name, state, steps) -> state: the last saved state, or the one given.
    - segment(name, state, losses): called after each segment.
    - compiled(name, seconds): called after a compilation, with its duration.
    - memory: bytes that chunks are chosen by.
    - mesh: the devices that share the work; None for one (see `devices`).
    - stop() -> whether the training is to save its state now and not to go on.
    - score(vectors [n, dim]) -> accuracies [n] on validation images, for a generator that chooses by them; None where
      there are none.
    - subset: what the vectors are of, for a generator that looks at tensors; None where it is not known.
    - say(line): what a user should know before it takes long, such as that features are streamed.
    """

    resume: Callable[[str, Any, int], Any] = lambda name, state, steps: state
    segment: Callable[[str, Any, np.ndarray], None] = lambda name, state, losses: None
    compiled: Callable[[str, float], None] = lambda name, seconds: None
    memory: int = MEMORY
    mesh: Mesh | None = None
    stop: Callable[[], bool] = lambda: False
    score: Callable[[Any], np.ndarray] | None = None
    subset: Subset | None = None
    say: Callable[[str], None] = lambda line: None


SILENT = Callbacks()


class State(NamedTuple):
    """Everything a training needs to go on: the same state gives the same bits.

    extra: what the loss carries along (BN statistics, order of images, saved vectors); ema: the average of params, or
    None; best, best_loss, since: the EMA of least held-out loss, that loss, and segments since; held_loss: the last.
    """

    step: Int[Array, ""]
    params: Any
    opt: Any
    extra: Any = None
    ema: Any = None
    best: Any = None
    best_loss: Any = None
    since: Any = None
    held_loss: Any = None


def start(params: Any, optimizer: optax.GradientTransformation, extra: Any = None) -> State:
    """The state before the first step."""
    return State(jnp.int32(0), params, once(optimizer.init)(params), extra)


def start_with_ema(params: Any, optimizer: optax.GradientTransformation) -> State:
    """As `start`, with an average of the parameters and the best of it so far."""
    none = jnp.float32(jnp.inf)
    return start(params, optimizer)._replace(
        ema=params, best=params, best_loss=none, since=jnp.int32(0), held_loss=none
    )


def once(fn: Callable[..., Any], static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """`fn` jitted for a single run, such as an initialisation: on a CPU XLA does not optimise it, which would take
    several times as long as the rest of its compilation. static: arguments by number that are no arrays."""
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    return jax.jit(fn, static_argnums=static, compiler_options=options)


Loss = Callable[..., tuple[Float[Array, ""], Any]]
Results = tuple[State, tuple[Array, Array]]


class Step:
    """One step of a training, `step(state, data) -> (state, (loss, gradient norm))`, and scans of it.

    JAX keeps what it compiled for a function as long as that function is there: give `train` the same Step again, and
    nothing is compiled again for the same shapes.
    """

    def __init__(self, run: Callable[[State, Any], Results]) -> None:
        self._run = run
        self._jitted: dict[Any, Any] = {}

    def __call__(self, state: State, data: Any) -> Results:
        return self._run(state, data)

    def jitted(self, placed: Any = None, length: int = 0) -> Any:
        """The jitted step, or that of a scan of so many steps; losses and norms are [length] then. The same one for the
        same arguments: JAX keeps what it traced for each. placed: where a step leaves its results."""
        leaves, structure = jax.tree.flatten(placed)
        key = (length, structure, *leaves)
        if key not in self._jitted:
            run = self._scan(length, placed) if length else self
            self._jitted[key] = jax.jit(run, donate_argnums=0, out_shardings=placed)
        return self._jitted[key]

    def _scan(self, length: int, placed: Any) -> Callable[[State, Any], Results]:
        def body(state: State, data: Any) -> Results:
            one = self.jitted(placed)
            return jax.lax.scan(lambda carry, _: one(carry, data), state, length=length)

        return body


def warmed_up(ema: float, step: Int[Array, ""]) -> Float[Array, ""]:
    """The decay of an average after that many steps: at first the average forgets faster."""
    return jnp.minimum(ema, (1.0 + step) / (10.0 + step))


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, ema: float | None = None, *, warms_up: bool = True
) -> Step:
    """`step(state, data) -> (state, (loss, gradient norm))` of `loss(params, extra, data, key, step) -> (loss, extra)`.

    data is a dict with "key": the key of the step is folded in from the step's number. An EMA that warms up has the
    decay min(ema, (1 + step) / (10 + step)).
    """

    def step(state: State, data: Any) -> tuple[State, tuple[Array, Array]]:
        key = jax.random.fold_in(data["key"], state.step)
        gradient_of = jax.value_and_grad(loss, has_aux=True)
        (value, extra), grads = gradient_of(state.params, state.extra, data, key, state.step)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state._replace(step=state.step + 1, params=params, opt=opt, extra=extra)
        if ema is not None:
            decay = warmed_up(ema, new.step) if warms_up else ema
            new = new._replace(ema=optax.incremental_update(params, new.ema, 1 - decay))
        return _typed(new, state), (value, optax.tree.norm(grads))

    return Step(step)


def _typed(new: State, old: State) -> State:
    """The new state in the old one's types: with JAX_ENABLE_X64 a loss or an average may come in 64 bits."""
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype), new, old)


def train(
    name: str,
    step: Step,
    state: State,
    data: Any,
    *,
    steps: int,
    segment: int,
    longest: int | None = None,
    callbacks: Callbacks = SILENT,
    before: Callable[[State, int], State] | None = None,
    after: Callable[[State, Any], State] | None = None,
    look: Callable[[State], State] | None = None,
    stopped: Callable[[State], bool] = lambda state: False,
) -> State:
    """Run `step` until `steps`, in segments of `segment` steps, from the state that `callbacks.resume` gives.

    longest: a longer segment is run in parts of this many steps, with a check of the losses and a save after each;
    before(state, steps done): at each segment's start, not jitted (the order of images); after(state, data): jitted at
    each segment's end (save a vector, look at held-out loss); look(state): the same, not jitted; stopped(state):
    whether to end early. Raises NonFiniteError where a loss or a gradient is not finite.
    """
    state = devices.like(callbacks.resume(name, state, steps), state)  # a copy: its buffers are donated
    run = _segment_runner(name, step, state, data, callbacks)
    finish = jax.jit(after, donate_argnums=0, out_shardings=devices.shardings(state)) if after else None
    done = int(state.step)
    while done < steps and not stopped(state):
        part = longest or segment
        left = min(segment - done % segment, steps - done)  # until the segment's end
        length = min(part - done % segment % part, left)
        if before and done % segment == 0:
            state = before(state, done)
        state, losses, norms = run(state, data, length)
        length = len(losses)
        _check_finite(name, losses, norms, done)
        if finish and length == left:
            state = _typed(finish(state, data), state)
        if look and length == left:
            state = _typed(look(state), state)
        done += length
        callbacks.segment(name, state, losses)
    return state


Runner = Callable[[State, Any, int], tuple[State, np.ndarray, np.ndarray]]


def _segment_runner(name: str, step: Step, state: State, data: Any, callbacks: Callbacks) -> Runner:
    """How a segment runs on this machine.

    On CPU a step with the gradient of a convolution is 7 to 35 times slower inside `lax.scan` than called from
    Python, so there it is called in a loop; everything else is one scan. Sharded programs go one at a time on a CPU,
    whose virtual devices can wait for each other for ever where many are under way.
    """
    started = time.perf_counter()
    kept = devices.shardings(state)
    out = None if kept is None else (kept, devices.everywhere(callbacks.mesh))  # losses are the same on all devices
    traced = step.jitted(out).trace(state, data)
    if jax.default_backend() == "cpu" and "conv_general_dilated" in _primitives(traced.jaxpr.jaxpr):
        one = traced.lower().compile()
        callbacks.compiled(name, time.perf_counter() - started)

        def loop(state: State, data: Any, length: int) -> tuple[State, np.ndarray, np.ndarray]:
            results = []
            for _ in range(length):
                state, result = one(state, data)
                results.append(result if out is None else jax.block_until_ready(result))
                if callbacks.stop():
                    break
            losses, norms = zip(*jax.device_get(results), strict=True)
            return state, np.stack(losses), np.stack(norms)

        return loop

    programs: dict[int, Any] = {}

    def scan(state: State, data: Any, length: int) -> tuple[State, np.ndarray, np.ndarray]:
        if length not in programs:
            started = time.perf_counter()
            programs[length] = step.jitted(out, length).lower(state, data).compile()
            callbacks.compiled(name, time.perf_counter() - started)
        state, results = programs[length](state, data)
        losses, norms = jax.device_get(results)
        return state, losses, norms

    return scan


def _primitives(jaxpr: Any) -> set[str]:
    """The names of all primitives of a jaxpr, inner ones included."""
    found: set[str] = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= _primitives(inner)
    return found


def _check_finite(name: str, losses: np.ndarray, norms: np.ndarray, done: int) -> None:
    """Raise for the first step (counted from 1) whose loss, or else whose gradient, is not finite."""
    bad = ~(np.isfinite(losses) & np.isfinite(norms))
    if bad.any():
        first = int(np.argmax(bad))
        raise NonFiniteError(name, "gradients" if np.isfinite(losses[first]) else "loss", done + first + 1)


def losses_of(model: Model, logits: Any, labels: Any, smoothing: float = 0.0) -> Float[Array, " n"]:
    """What the model is trained to make small, per image: its own loss, or cross-entropy."""
    logits = logits.astype(jnp.float32)
    return cross_entropy(logits, labels, smoothing) if model.loss is None else model.loss(logits, labels)


def _averaged(decay: Float[Array, ""], old: Array, new: Array) -> Array:
    """A moving average; whole numbers, such as counters, are the last ones."""
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    return (decay * old + (1 - decay) * new).astype(new.dtype)


def train_base(
    model: Model,
    examples: Examples,
    key: Key[Array, ""],
    settings: Base,
    *,
    initial: Any = None,
    name: str = "base",
    callbacks: Callbacks = SILENT,
) -> dict[str, Any]:
    """Train the backbone; returns its variables after the last epoch (no selection on any split).

    initial: the variables to start from; None: fresh random ones. name: of the training, to `callbacks`.
    """
    assert model.init is not None
    assert model.train_apply is not None
    train_apply = model.train_apply
    n = examples.labels.shape[0]
    per_epoch = n // settings.batch
    key_init, key_order, key_steps = jax.random.split(key, 3)
    variables = once(model.init)(key_init) if initial is None else initial
    data = {"images": examples.images, "labels": examples.labels, "key": key_steps, "order": key_order}
    data = devices.replicate(data, callbacks.mesh)

    is_mixed = settings.mixup > 0 or settings.cutmix > 0

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Array, Any]:
        index = batch_of(step, extra["order"], settings.batch)
        keys = jax.random.split(key, settings.batch + 1)
        keys_own, images = devices.shard_rows((keys[1:], rows(data["images"], index)), callbacks.mesh)
        images = examples.view(keys_own, images, step // per_epoch)
        labels, share = data["labels"][index], None
        if is_mixed:
            images, share = recipe.mix(settings, jax.random.fold_in(key, MIX_KEY), images)
        logits, new = train_apply({**extra["rest"], "params": params}, images, keys[0])
        losses = losses_of(model, logits, labels, settings.label_smoothing)
        if share is not None:
            others = losses_of(model, logits, jnp.roll(labels, 1, axis=0), settings.label_smoothing)
            losses = share * losses + (1 - share) * others
        rest = {name: value for name, value in new.items() if name != "params"}
        carried = {**extra, "rest": rest}
        if settings.ema:
            decay = warmed_up(settings.ema, step + 1)
            carried["ema"] = jax.tree.map(partial(_averaged, decay), extra["ema"], rest)
        return jnp.mean(losses), carried

    rest = {name: value for name, value in variables.items() if name != "params"}
    optimizer = recipe.optimizer(settings, per_epoch, variables)
    extra = {"rest": rest, "order": jnp.zeros(n, jnp.int32)}
    state = start(variables["params"], optimizer, {**extra, "ema": rest} if settings.ema else extra)
    if settings.ema:
        state = state._replace(ema=variables["params"])
    state = devices.replicate(state, callbacks.mesh)
    state = train(
        name,
        make_step(loss, optimizer, settings.ema or None),
        state,
        data,
        steps=settings.epochs * per_epoch,
        segment=per_epoch,
        longest=SEGMENT,
        callbacks=callbacks,
        before=lambda state, done: shuffled(state, data, done // per_epoch),
    )
    return (
        {"params": state.ema, **state.extra["ema"]} if settings.ema else {"params": state.params, **state.extra["rest"]}
    )
