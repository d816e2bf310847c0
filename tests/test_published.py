"""p-diff's published generator: parameter counts, forward values, each of its errors, its choice by accuracy, k = 1.

The references are plain NumPy, written from the description of the release: convolutions as sums over a window in
PyTorch's layout.
"""

import dataclasses
import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import bend_jax
from bend_jax.checks import SettingsError, settings_json
from bend_jax.generate import GENERATORS, autoencoder, bend, convolutional, diffusion, noised, published
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import PUBLISHED, Bend
from bend_jax.generate.convolutional_denoiser import ConvolutionalDenoiser, multiplications
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.latents import LatentCodec
from bend_jax.generate.noised import Noised
from bend_jax.generate.whitening import as_it_is, unchanged
from bend_jax.run import config, rows
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Callbacks, make_step, start_with_ema, train
from tests.problems import blobs, blobs_apply

WEIGHTS = 2_350_273  # of the denoiser's convolutions, by hand:
#   down  1-64 256, 64-64 12,352; 64-128 24,704, 128-128 49,280; 128-256 98,560, 256-256 196,864; 256-512 393,728,
#         512-512 786,944
#   up    512-256 393,472, 256-256 196,864; 256-128 98,432, 128-128 49,280; 128-64 24,640, 64-64 12,352; 64-64 12,352,
#         64-1 193


def size_of(tree: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Random parameters of about the size that trained ones have."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5, jnp.float32),
        shapes,
    )


# the reference: arrays [n, channels, length], kernels [out, in, window], of a transposed convolution [in, out, window]


def norm(x: np.ndarray) -> np.ndarray:
    """InstanceNorm1d without parameters."""
    return (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5)


def leaky(x: np.ndarray) -> np.ndarray:
    """LeakyReLU(0.01)."""
    return np.where(x > 0, x, 0.01 * x)


def conv(x: np.ndarray, parameters: Any, stride: int, padding: int) -> np.ndarray:
    """Conv1d."""
    kernel, bias = (np.asarray(parameters[name], np.float64) for name in ("kernel", "bias"))
    kernel = kernel.transpose(2, 1, 0)
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    window = kernel.shape[2]
    starts = range(0, x.shape[2] - window + 1, stride)
    return np.stack([np.einsum("ncw,ocw->no", x[:, :, i : i + window], kernel) + bias for i in starts], axis=2)


def unfold(x: np.ndarray, parameters: Any, stride: int) -> np.ndarray:
    """ConvTranspose1d. Flax's kernel is the mirror image of PyTorch's."""
    kernel, bias = (np.asarray(parameters[name], np.float64) for name in ("kernel", "bias"))
    kernel = kernel[::-1].transpose(1, 2, 0)
    n, _, length = x.shape
    out = np.zeros((n, kernel.shape[1], (length - 1) * stride + kernel.shape[2]))
    for i in range(length):
        out[:, :, i * stride : i * stride + kernel.shape[2]] += np.einsum("nc,cow->now", x[:, :, i], kernel)
    return out + bias[None, :, None]


def reference_denoiser(variables: Any, x: np.ndarray, t: int) -> np.ndarray:
    """Eight blocks; t is the timestep of all rows."""
    p = variables["params"]
    time = np.asarray(p["time"], np.float64)[t][None, None]
    h = conv(norm(x[:, None] + time), p["down1_first"], 1, 1)
    outputs = [conv(norm(leaky(h)), p["down1_second"], 1, 1)]
    for i in (2, 3, 4):
        h = conv(norm(leaky(outputs[-1] + time)), p[f"down{i}_first"], 1, 1)
        outputs.append(conv(norm(leaky(h)), p[f"down{i}_second"], 1, 1))
    h = outputs[3]
    for i in (1, 2, 3, 4):
        h = conv(norm(leaky(h + time)), p[f"up{i}_first"], 1, 1)
        h = conv(norm(leaky(h)), p[f"up{i}_second"], 1, 1)
        if i < 4:
            h = h + outputs[3 - i]
    return h[:, 0]


def reference_autoencoder(params: Any, x: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [n, channels, positions], and what they decode to: the release's padding, (d // fold^4 + 1) fold^4."""
    dim = x.shape[1]
    h = np.pad(x, ((0, 0), (0, (dim // fold**4 + 1) * fold**4 - dim)))[:, None]
    p = params["encoder"]["params"]
    for i in (1, 2, 3, 4):
        h = conv(norm(leaky(conv(norm(h), p[f"layer{i}_keep"], 1, 1))), p[f"layer{i}_fold"], fold, 0)
        h = np.tanh(h) if i == 4 else leaky(h)
    latents, p = h, params["decoder"]["params"]
    for i in (1, 2, 3, 4):
        h = unfold(norm(leaky(h)), p[f"layer{i}_unfold"], fold)
        h = conv(norm(leaky(h)), p[f"layer{i}_keep"], 1, fold if i == 4 else fold - 1)
    return latents, h[:, 0, :dim]


@pytest.mark.parametrize("latent", [12, 52])
def test_the_denoiser_has_the_published_number_of_parameters(latent: int) -> None:
    """2.4 million: the convolutions' and 1000 rows of the time table, for medium's and small's latents at d = 2048."""
    shapes = jax.eval_shape(
        ConvolutionalDenoiser(1000).init, jax.random.key(0), jnp.zeros((2, latent)), jnp.zeros(2, jnp.int32)
    )
    assert size_of(shapes) == WEIGHTS + 1000 * latent
    assert round(size_of(shapes) / 1e6, 1) == 2.4
    convolutions = [value for name, value in shapes["params"].items() if name != "time"]
    assert len(convolutions) == 16
    assert multiplications(latent) == latent * sum(size_of(value["kernel"]) for value in convolutions)


@pytest.mark.parametrize(("fold", "weights"), [(5, 1_000_497), (3, 39_393)])
def test_the_autoencoder_has_the_published_number_of_parameters(fold: int, weights: int) -> None:
    """By hand, medium: encoder 24 + 84 + 3 * 168, decoder 84 + 5,376, 2 * 327,936, 327,936 + 10,248, 328 + 41; small:
    22 + 3 * 28 and 14 + 448, 2 * 12,352, 12,352 + 1,544, 200 + 25."""
    settings = replace(PUBLISHED.autoencoder, fold=fold)
    shapes = jax.eval_shape(lambda x: autoencoder.initial(x, jax.random.key(0), settings), jnp.zeros((2, 2048)))
    assert size_of(shapes) == weights


def test_the_denoiser_is_the_published_one() -> None:
    """Random parameters, the time table among them, against the reference; every parameter moves the output."""
    net, rng = ConvolutionalDenoiser(7), np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(3, 10)), jnp.float32)
    variables = drawn(jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(3, jnp.int32)))
    for t in (0, 6):
        found = net.apply(variables, x, jnp.full(3, t))
        np.testing.assert_allclose(found, reference_denoiser(variables, np.asarray(x), t), rtol=2e-3, atol=2e-3)
    assert np.asarray(net.apply(variables, x, jnp.array([0, 6, 6])))[0] == pytest.approx(
        reference_denoiser(variables, np.asarray(x), 0)[0], rel=2e-3, abs=2e-3
    )


@pytest.mark.parametrize(("fold", "dim"), [(3, 200), (5, 1536)])
def test_the_autoencoder_is_the_published_one(fold: int, dim: int) -> None:
    """Random parameters against the reference: InstanceNorm, slopes, tanh, padding, cut, the order of the latent."""
    settings = replace(PUBLISHED.autoencoder, fold=fold)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, dim)), jnp.float32)
    params = drawn(jax.eval_shape(lambda x: autoencoder.initial(x, jax.random.key(0), settings), x))
    latents, decoded = reference_autoencoder(params, np.asarray(x), fold)
    found = autoencoder.encode(params, x, settings)
    np.testing.assert_allclose(found, latents.reshape(2, -1), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(
        autoencoder.decode(params, jnp.asarray(latents.reshape(2, -1), jnp.float32), dim, settings),
        decoded,
        rtol=5e-3,
        atol=5e-3,
    )


def test_instance_norm_loses_a_vectors_own_mean_and_scale() -> None:
    """3 x + 5 has the latents of x, where no zeros are padded; without InstanceNorm it has others."""
    encoder, x = convolutional.Encoder(3, instance_norm=True), jax.random.normal(jax.random.key(0), (2, 162))
    assert convolutional.padded(162, 3, convolutional.NORMED) == 162
    plain = convolutional.Encoder(3)
    variables = encoder.init(jax.random.key(1), x)
    latents = np.asarray(encoder.apply(variables, x))
    assert np.abs(latents).max() > 0.1
    np.testing.assert_allclose(encoder.apply(variables, 3 * x + 5), latents, atol=1e-3)
    moved = np.asarray(plain.apply(variables, 3 * x + 5)) - np.asarray(plain.apply(variables, x))
    assert np.abs(moved).max() > 0.005


def test_parameters_start_as_in_pytorch() -> None:
    """U(-b, b), b = 1 / sqrt(fan in), kernels and biases; of a transposed convolution the outputs are counted."""
    x = jnp.zeros((1, 60, 40))
    for module, fan_in in (
        (convolutional.Conv(300, 5, 1), 200),
        (convolutional.StridedConv(300, 5), 200),
        (convolutional.TransposedConv(20, 5), 100),
    ):
        params: Any = module.init(jax.random.key(0), x)["params"]
        for leaf in (params["kernel"], params["bias"]):
            assert float(jnp.abs(leaf).max()) <= fan_in**-0.5
            assert float(jnp.abs(leaf).max()) > 0.8 * fan_in**-0.5
        assert float(params["kernel"].std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.03)


TABLE = diffusion.tables(Diffusion(timesteps=20, beta_end=0.012))


def flat_denoiser(latent: int = 6) -> tuple[ConvolutionalDenoiser, Any, Diffusion]:
    """A net with random parameters, and settings of its size."""
    net = ConvolutionalDenoiser(20)
    variables = drawn(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, latent)), jnp.zeros(1, jnp.int32)))
    return net, variables, Diffusion(denoiser="conv", timesteps=20, beta_end=0.012)


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_the_loss_is_the_error_of_the_noise_at_the_first_rows_timestep(prediction: str) -> None:
    """By hand, from the reference: x_t is of each row's own t, and the net is told the first row's."""
    net, variables, settings = flat_denoiser()
    rng = np.random.default_rng(2)
    x, eps = rng.normal(size=(2, 3, 6)).astype(np.float32)
    t = np.array([3, 17, 9])
    bar = np.asarray(TABLE.alpha_bar, np.float64)[t][:, None]
    noisy = np.sqrt(bar) * x + np.sqrt(1 - bar) * eps
    target = eps if prediction == "eps" else np.sqrt(bar) * eps - np.sqrt(1 - bar) * x
    found = {}
    for shared in (False, True):
        own = replace(settings, shared_timestep=shared, prediction=prediction)
        found[shared] = float(
            published.denoising_loss(net, variables, TABLE, own, jnp.asarray(x), jnp.asarray(t), jnp.asarray(eps))
        )
        told = [3, 3, 3] if shared else t
        outputs = np.stack([reference_denoiser(variables, noisy[i : i + 1], told[i])[0] for i in range(3)])
        assert found[shared] == pytest.approx(np.mean((outputs - target) ** 2), rel=5e-3)
    assert found[False] != pytest.approx(found[True], rel=0.02)


def test_without_clamps_the_sampler_is_the_ancestral_one() -> None:
    """Written with x_0 instead of eps; the same numbers, at another temperature too."""
    settings = Diffusion(timesteps=1000)
    table = diffusion.tables(settings)
    arguments = (lambda x, t, bar: 0.3 * x, table, jax.random.key(0), (5, 3), jnp.float32(0.7))
    np.testing.assert_allclose(
        published.clamped(*arguments, False, False), diffusion.ancestral(*arguments), rtol=1e-3, atol=1e-4
    )


def test_the_clamps_cut_what_they_name() -> None:
    """A denoiser that says eps = 0 at one timestep of abar = 1/4 gives x_0 = 2 x_T: cut to +-1. At two, x_1 is cut."""
    one = diffusion.Tables(jnp.array([0.75]), jnp.array([0.25]), jnp.array([0.5]))
    nothing = lambda x, t, bar: jnp.zeros_like(x)  # noqa: E731
    arguments = (jax.random.key(0), (200, 2), jnp.float32(1))
    free = published.clamped(nothing, one, *arguments, False, False)
    assert float(jnp.abs(free).max()) > 3
    for clamps in ((True, False), (False, True)):
        np.testing.assert_allclose(
            published.clamped(nothing, one, *arguments, *clamps), jnp.clip(free, -1, 1), atol=1e-6
        )
    two = diffusion.Tables(jnp.array([0.5, 0.5]), jnp.array([0.5, 0.25]), jnp.array([0.0, 1.0]))
    of_x0, of_xt = (published.clamped(nothing, two, *arguments, *clamps) for clamps in ((True, False), (False, True)))
    key = jax.random.split(arguments[0])
    x2 = jax.random.normal(key[0], (200, 2))
    z = jax.random.normal(jax.random.fold_in(key[1], 1), (200, 2))
    first = jnp.sqrt(2.0) * x2 + z  # eps = 0: x_1 = x_2 / sqrt(alpha) + sigma z
    np.testing.assert_allclose(of_xt, jnp.clip(jnp.sqrt(2.0) * jnp.clip(first, -1, 1), -1, 1), atol=1e-5)
    clean = jnp.clip(2 * x2, -1, 1)
    mean = (0.5 * jnp.sqrt(0.5) * clean + 0.5 * jnp.sqrt(0.5) * x2) / 0.75
    np.testing.assert_allclose(of_x0, jnp.clip(jnp.sqrt(2.0) * (mean + z), -1, 1), atol=1e-5)


def test_an_average_without_warm_up_keeps_its_start() -> None:
    """Two steps of w <- w - 1 from 0: 0.9 (0.9 * 0 + 0.1 * -1) + 0.1 * -2."""
    optimizer = optax.sgd(1.0)
    step = make_step(lambda w, extra, data, key, step: (jnp.sum(w), extra), optimizer, 0.9, warms_up=False)
    state = start_with_ema(jnp.zeros(1), optimizer)
    for _ in range(2):
        state, _ = step(state, {"key": jax.random.key(0)})
    assert float(state.ema[0]) == pytest.approx(-0.29)


def test_the_autoencoder_clamps_latents_and_leaves_their_scale() -> None:
    """Each of the two is a switch."""
    latents, key = 1.5 * jnp.ones((4, 3)), jax.random.key(0)
    free = autoencoder.noised(key, latents, Autoencoder(latent_noise=0.5))
    np.testing.assert_allclose(
        autoencoder.noised(key, latents, Autoencoder(latent_noise=0.5, clamp_latents=True)), jnp.clip(free, -1, 1)
    )
    assert float(free.max()) > 1
    x = jax.random.normal(key, (2, 162))
    params = autoencoder.initial(x, key, PUBLISHED.autoencoder)
    as_they_are = autoencoder.encode(params, x, PUBLISHED.autoencoder)
    scaled = autoencoder.encode(params, x, replace(PUBLISHED.autoencoder, scale_latents=True))
    np.testing.assert_allclose(scaled, 0.9 * as_they_are, rtol=1e-6)


def test_the_rate_is_constant_or_half_a_cosine() -> None:
    """With gradients of one sign AdamW's steps are the rate: the last of ten is as large as the first, or next to 0."""
    x = 100.0 + jnp.arange(8.0)[None].repeat(3, axis=0)
    moved = {}
    for schedule in autoencoder.RATES:
        settings = Autoencoder(
            kind="mlp", latent=2, hidden=4, segment=1, steps=10, schedule=schedule, lr=1e-3, standardise=False
        )
        biases = []
        keep = Callbacks(
            segment=lambda name, state, losses, b=biases: b.append(
                np.asarray(state.params["decoder"]["params"]["layer4"]["bias"])
            )
        )
        autoencoder.fit(x - x.mean(), jax.random.key(0), settings, keep)
        moved[schedule] = np.abs(biases[-1] - biases[-2]).max()
    assert moved["cosine"] < 0.1 * moved["constant"]


# selection


LATENTS = jax.random.normal(jax.random.key(5), (4, 6)) * 0.3
TINY = Diffusion(denoiser="conv", timesteps=20, beta_end=0.012, steps=6, segment=2, ema=0.5, ema_warmup=False)
CODEC = LatentCodec(as_it_is(LATENTS), unchanged(LATENTS), unchanged(LATENTS), Autoencoder(kind="pca"))


def trained(settings: Diffusion, score: Any = None) -> Any:
    """The denoiser of LATENTS."""
    return published.fit(LATENTS, jax.random.key(0), settings, Callbacks(score=score), CODEC)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are the same to the bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_kept_step_is_that_of_the_best_single_sample() -> None:
    """Ten samples every `segment` steps; the best counts, not their mean; of equal ones the first; NaN never."""
    seen: list[Any] = []

    def score(vectors: Any) -> np.ndarray:
        assert vectors.shape == (10, 6)
        seen.append(vectors)
        return np.array([(0.5, 0.9, 0.9)[len(seen) - 1], *np.zeros(8), np.nan])

    kept = trained(replace(TINY, select="accuracy"), score)
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where nothing is chosen there is nothing to say
        assert equal(kept, trained(replace(TINY, steps=4)))


def test_a_step_moves_every_weight_by_the_rate() -> None:
    """AdamW's first step is the rate times the gradient's sign, without decay: two rates are their difference apart."""
    settings = replace(TINY, steps=1, segment=1, ema=0.0)
    first, second = (trained(replace(settings, lr=rate)) for rate in (1e-3, 3e-3))
    moved = jax.tree.map(lambda x, y: np.abs(np.asarray(x - y)), first, second)["params"]
    for name, leaf in moved.items():
        if name != "time":  # rows of timesteps that were not drawn stay
            assert np.median(leaf["kernel"]) == pytest.approx(2e-3, rel=0.02), name


@pytest.mark.slow
def test_without_validation_images_the_last_step_is_kept_and_said() -> None:
    """A warning that says why; a score that is never finite chooses nothing either."""
    with pytest.warns(UserWarning, match="there are none: the last step is kept"):
        kept = trained(replace(TINY, steps=2, select="accuracy"))
    assert equal(kept, trained(replace(TINY, steps=2, select="accuracy"), lambda vectors: np.full(10, np.nan)))


def test_fit_gives_the_generator_its_validation_images() -> None:
    """The score is each vector's own accuracy on them; without any there is a warning about it."""
    variables, images, labels = blobs()
    scores = []

    class Told(bend_jax.Settings):
        """None."""

    def fit(vectors: Any, key: Any, settings: Any, *, callbacks: Callbacks) -> Any:
        scores.append(None if callbacks.score is None else callbacks.score(vectors))
        assert callbacks.subset is not None
        assert callbacks.subset.lengths == (3, 24)
        return vectors

    told = bend_jax.Generator("told", Told(), fit, lambda vectors, key, m: vectors[:m])
    given = {"subset": "head", "collect": bend_jax.Bootstrap(k=3, batch=16, lr=0.1), "generate": told, "members": 3}
    held = (images[:20], labels[:20])
    made = bend_jax.fit(blobs_apply, variables, images[20:], labels[20:], validation=held, **given)
    predicted = np.argmax(np.asarray(made.member_logits(held[0])), axis=2)
    np.testing.assert_allclose(scores[0], (predicted == held[1][None]).mean(axis=1))
    with pytest.warns(UserWarning, match="temperature stays 1"):
        bend_jax.fit(blobs_apply, variables, images[20:], labels[20:], **given)
    assert scores[1] is None


def test_a_training_is_looked_at_after_each_segment_and_before_it_is_saved() -> None:
    """The state that is saved is the one that the look gave back."""
    optimizer, saved = optax.sgd(1.0), []
    step = make_step(lambda w, extra, data, key, step: (jnp.sum(w), extra), optimizer)
    state = start_with_ema(jnp.zeros(1), optimizer)
    looks = []

    def look(state: Any) -> Any:
        looks.append(int(state.step))
        return state._replace(best=jnp.copy(state.params))

    callbacks = Callbacks(segment=lambda name, state, losses: saved.append((int(state.step), float(state.best[0]))))
    data = {"key": jax.random.key(0)}
    train("t", step, state, data, steps=7, segment=4, longest=2, callbacks=callbacks, look=look)
    assert looks == [4, 7]
    assert saved == [(2, 0.0), (4, -4.0), (6, -4.0), (7, -7.0)]


# the preset


def values(**changes: Any) -> dict[str, Any]:
    """The default configuration with changes, double underscores for dots."""
    raw = ConfigDict(config.defaults())
    raw.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return raw.to_dict()


def bend_of(raw: dict[str, Any], given: tuple[str, ...] = ()) -> Bend:
    """The settings of bend in a configuration."""
    return config.parse(raw, given).generate.settings["bend"]


PRESET = {"generate__bend__preset": "published"}


def test_the_preset_is_the_release() -> None:
    """Its figures, and that a digest covers what the preset fills in and not its name."""
    found = bend_of(values(**PRESET))
    assert found == PUBLISHED
    a, d = found.autoencoder, found.diffusion
    assert (a.kind, a.fold, a.steps, a.lr, a.weight_decay, a.schedule) == ("conv", 5, 30_000, 1e-3, 2e-6, "constant")
    assert (a.input_noise, a.latent_noise) == (0.001, 0.1)
    assert (a.instance_norm, a.clamp_latents, a.scale_latents, a.standardise, a.whiten) == (
        True,
        True,
        False,
        False,
        False,
    )
    assert (d.denoiser, d.timesteps, d.beta_start, d.beta_end) == ("conv", 1000, 1e-4, 0.02)
    assert (d.prediction, d.variance, d.sampler, d.select) == ("eps", "beta", "ddpm", "accuracy")
    assert (d.steps, d.segment, d.lr, d.weight_decay, d.ema, d.ema_warmup) == (30_000, 3000, 1e-3, 2e-6, 0.9999, False)
    assert (d.shared_timestep, d.clamp_x0, d.clamp_xt) == (True, True, True)
    digest = settings_json(found)
    assert digest["diffusion"]["shared_timestep"] is True
    assert "preset" not in digest
    assert "shared_timestep" not in settings_json(Bend())["diffusion"]


def test_what_is_given_stays_beside_a_preset() -> None:
    """A flag wins, at the default too; a file's value where it is not the default; a row's, and its preset gives way to
    flags."""
    norm, steps = "generate.bend.autoencoder.instance_norm", "generate.bend.diffusion.steps"
    assert bend_of(values(**PRESET), (norm,)) == replace(
        PUBLISHED, autoencoder=replace(PUBLISHED.autoencoder, instance_norm=False)
    )
    changed = values(**PRESET, generate__bend__diffusion__steps=77)
    assert bend_of(changed) == replace(PUBLISHED, diffusion=replace(PUBLISHED.diffusion, steps=77))
    row = {"name": "a", "vote": "sbend", "settings": {norm: False, "generate.bend.preset": "published"}}
    (found,) = rows.read_rows(values(generate__bend__diffusion__steps=2000), [row], (steps,))
    own = found.config.generate.settings["bend"]
    assert (own.autoencoder.instance_norm, own.autoencoder.standardise, own.diffusion.steps) == (False, False, 2000)


def test_mistakes_about_a_preset_are_one_line() -> None:
    """An unknown name; a switch that a net does not have."""
    with pytest.raises(SettingsError, match=r"generate.bend.preset: unknown 'publishd' \(did you mean 'published'\?\)"):
        config.parse(values(generate__bend__preset="publishd"))
    with pytest.raises(SettingsError, match=r"shared_timestep=True, .*select=accuracy: only denoiser=conv"):
        config.parse(values(**PRESET), ("generate.bend.diffusion.denoiser",))
    with pytest.raises(SettingsError, match="kind=pca has no instance_norm"):
        Autoencoder(instance_norm=True)


# one checkpoint, and checkpoints with noise


def small(preset: Bend = PUBLISHED) -> Bend:
    """The preset, so small that it runs in a test."""
    coder = replace(preset.autoencoder, fold=3, steps=3)
    return replace(preset, autoencoder=coder, diffusion=replace(TINY, select="last", clamp_xt=True))


@pytest.mark.parametrize("name", GENERATORS)
def test_a_single_checkpoint_is_enough_or_refused_before_any_compute(name: str) -> None:
    """Finite members, or one line that says what to do."""
    generator, vectors = GENERATORS[name], jax.random.normal(jax.random.key(0), (1, 90))
    if name in ("bend", "random_latent", "autoencoder", "average16"):
        with pytest.raises(SettingsError, match=r"^[^\n]*(means of 16 checkpoints|collect 2 or more)[^\n]*$"):
            generator.needs(generator.settings, 1)
        return
    generator.needs(generator.settings, 1)
    fitted = generator.fit(vectors, jax.random.key(1), generator.settings)
    members = generator.sample(fitted, jax.random.key(2), 4)
    assert bool(jnp.isfinite(members).all())
    close = np.abs(np.asarray(members - vectors)).max()
    assert close < (0.3 if name == "noised" else 1e-5)


@pytest.mark.parametrize("k", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_the_preset_works_on_any_number_of_checkpoints(k: int) -> None:
    """A single one has latents and no variance. The preset's latents stay within tanh's range, the sampler's within the
    clamps."""
    vectors = 1.0 + 0.1 * jax.random.normal(jax.random.key(0), (k, 200))
    settings = small()
    assert GENERATORS["bend"].needs(settings, k) is None
    fitted = bend.fit(vectors, jax.random.key(1), settings)
    members = bend.sample(fitted, jax.random.key(2), 4)
    assert members.shape == (4, 200)
    assert bool(jnp.isfinite(members).all())
    assert float(jnp.abs(bend.encode(fitted, vectors)).max()) < 1
    white = published.sample(fitted.denoiser, jax.random.key(3), 50, 6, settings.diffusion, jnp.float32(1))
    assert white.shape == (50, 6)
    assert float(jnp.abs(white).max()) <= 1


THREE = Subset(("params.a", "params.b", "params.c"), ((20, 20), (300,), (1,)))


def test_checkpoints_with_noise_have_each_tensors_own_sd() -> None:
    """Two tensors of sd 2 and 0.1, and one of a single number, which gets none; each checkpoint comes equally often."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate(
        [rng.normal(1, 2, (3, 400)), rng.normal(-1, 0.1, (3, 300)), rng.normal(5, 1, (3, 1))], axis=1
    )
    vectors = vectors.astype(np.float32)
    fitted = noised.fit(jnp.asarray(vectors), jax.random.key(0), Noised(scale=0.15), callbacks=Callbacks(subset=THREE))
    members = np.asarray(noised.sample(fitted, jax.random.key(1), 300))
    near = np.argmin(((members[:, None, :400] - vectors[None, :, :400]) ** 2).sum(axis=2), axis=1)
    assert np.bincount(near).tolist() == [100, 100, 100]
    noise = members - vectors[near]
    for i in range(3):
        own = noise[near == i]
        assert own[:, :400].std() == pytest.approx(0.15 * vectors[i, :400].std(ddof=1), rel=0.02)
        assert own[:, 400:700].std() == pytest.approx(0.15 * vectors[i, 400:700].std(ddof=1), rel=0.02)
        assert np.abs(own[:, 700]).max() == 0
    whole = noised.fit(jnp.asarray(vectors), jax.random.key(0), Noised(scale=0.15), callbacks=SILENT)
    members = np.asarray(noised.sample(whole, jax.random.key(1), 300))
    near = np.argmin(((members[:, None] - vectors[None]) ** 2).sum(axis=2), axis=1)
    assert (members - vectors[near]).std() == pytest.approx(0.15 * vectors.std(axis=1, ddof=1).mean(), rel=0.02)


def test_every_switch_of_the_preset_is_one_of_its_own() -> None:
    """Turned off one at a time, the settings are valid and differ in that alone."""
    defaults = Bend()
    for part, names in (
        ("autoencoder", ("instance_norm", "clamp_latents", "scale_latents", "standardise", "whiten", "schedule")),
        ("diffusion", ("shared_timestep", "clamp_x0", "clamp_xt", "ema_warmup", "select")),
    ):
        for name in names:
            own = replace(getattr(PUBLISHED, part), **{name: getattr(getattr(defaults, part), name)})
            changed = [
                f.name
                for f in dataclasses.fields(own)
                if getattr(own, f.name) != getattr(getattr(PUBLISHED, part), f.name)
            ]
            assert changed == [name]
