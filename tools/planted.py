"""For `tools/mutants.py`: the tests of each module, the most telling first, and faults by hand (what, text, fault)."""

GENERATE, DIFFUSION, LEARNING, PUBLISHED, COSTS = (
    f"tests/test_{name}.py" for name in ("generate", "diffusion", "learning", "published", "costs")
)
MOMENTS = f"{GENERATE}::test_members_have_the_moments_of_the_formula"
KNOB = f"{GENERATE}::test_the_knob_is_a_leaf_and_needs_neither_a_fit_nor_a_trace"
STRUCTURE = (
    f"{LEARNING}::test_the_statistic_is_the_integral_that_it_stands_for",
    f"{LEARNING}::test_the_statistic_has_mean_0_and_sd_1_on_gaussian_latents",
    f"{LEARNING}::test_structure_across_equally_strong_latents_is_turned_to_the_front",
    f"{LEARNING}::test_nothing_is_turned_in_gaussian_latents",
)
LEARNT = (
    f"{LEARNING}::test_the_evidence_of_a_fold_is_from_denoisers_that_have_not_seen_it",
    "tests/test_evidence.py",
    f"{LEARNING}::test_a_memorised_set_shows_in_the_loss_of_the_unseen",
)
NULLS = (
    f"{GENERATE}::test_gaussian_has_the_moments_of_its_coordinates",
    MOMENTS,
    KNOB,
    *(
        f"{GENERATE}::test_{name}"
        for name in (
            "average_is_one_member_whatever_was_asked_for",
            "average16_says_what_it_needs",
            "resampled_members_are_checkpoints",
            "reconstruction_goes_through_the_autoencoder",
            "two_checkpoints_are_enough",
            "identity_gives_evenly_spaced_checkpoints",
        )
    ),
    f"{PUBLISHED}::test_a_single_checkpoint_is_enough_or_refused_before_any_compute",
    "tests/test_generator.py",
    COSTS,
    "-k=not bend and not published_denoiser",
)
CODER = (
    "tests/test_autoencoder.py",
    *(
        f"{GENERATE}::test_{name}"
        for name in (
            "pca_is_exact_where_the_latents_span_the_vectors",
            "the_autoencoder_starts_as_principal_components",
            "noised_latents_have_the_noise_of_the_training",
            "reconstruction_goes_through_the_autoencoder",
            "two_checkpoints_are_enough",
            "autoencoder_training_beats_principal_components_on_a_curve",
            "nan_in_the_vectors_stops_with_the_name_of_the_training",
        )
    ),
    f"{MOMENTS}[random_latent]",
    *(
        f"{PUBLISHED}::test_{name}"
        for name in (
            "the_autoencoder_clamps_latents_and_leaves_their_scale",
            "the_rate_is_constant_or_half_a_cosine",
            "the_autoencoder_is_the_published_one",
            "a_single_checkpoint_is_enough_or_refused_before_any_compute",
            "the_preset_works_on_any_number_of_checkpoints",
        )
    ),
    COSTS,
    "-k=not published_denoiser",
)

TESTS: dict[str, tuple[str, ...]] = {  # by a pattern of modules
    "batch_norm": ("tests/test_batch_norm.py",),
    "split": ("tests/test_split.py", "tests/test_split_trees.py", "tests/test_small_maps.py"),
    "small_maps": ("tests/test_small_maps.py",),
    "evaluation/scores": (
        "tests/test_scores.py",
        "tests/test_predict.py",
        "tests/test_shift.py",
        "tests/test_sections.py",
        "tests/test_config.py",
    ),
    "evaluation/predict": ("tests/test_predict.py", "tests/test_shift.py", "tests/test_wrong_numbers.py"),
    "generate/denoiser_training": (
        f"{DIFFUSION}::test_the_first_loss_of_each_prediction_is_the_expected_one",
        *LEARNT,
    ),
    "generate/diffusion": (
        "tests/test_evidence.py::test_a_latent_outside_the_mask_is_neither_seen_nor_answered",
        "tests/test_evidence.py::test_samples_are_the_nets_where_it_answers",
        DIFFUSION,
        COSTS,
    ),
    "generate/structure": STRUCTURE,
    "generate/bend": (
        f"{LEARNING}::test_the_gaussian_beside_the_diffusion_fills_what_few_latents_leave_out",
        f"{PUBLISHED}::test_the_preset_is_the_release",
        "tests/test_evidence.py::test_evidence_as_plain_numbers",
        "tests/test_evidence.py::test_latents_are_turned_with_the_maps_to_and_fro",
        "tests/test_evidence.py::test_structure_is_looked_for_in_a_tenth_of_the_checkpoints_number",
        "tests/test_evidence.py::test_the_temperature_is_that_of_the_rest_too",
        f"{GENERATE}::test_noised_latents_have_the_noise_of_the_training",
        COSTS,
        f"{PUBLISHED}::test_the_preset_works_on_any_number_of_checkpoints",
        f"{MOMENTS}[bend]",
    ),
    "generate/published": (
        f"{PUBLISHED}::test_the_loss_is_the_error_of_the_noise_at_the_first_rows_timestep",
        f"{PUBLISHED}::test_without_clamps_the_sampler_is_the_ancestral_one",
        f"{PUBLISHED}::test_the_clamps_cut_what_they_name",
        f"{PUBLISHED}::test_a_step_moves_every_weight_by_the_rate",
        f"{PUBLISHED}::test_the_kept_step_is_that_of_the_best_single_sample",
        f"{PUBLISHED}::test_without_validation_images_the_last_step_is_kept_and_said",
        f"{PUBLISHED}::test_the_preset_works_on_any_number_of_checkpoints",
        COSTS,
    ),
    "generate/convolutional_denoiser": (
        f"{PUBLISHED}::test_the_denoiser_has_the_published_number_of_parameters",
        f"{PUBLISHED}::test_the_denoiser_is_the_published_one",
        COSTS,
    ),
    "generate/convolutional": (
        f"{GENERATE}::test_the_convolutional_latents_have_the_published_sizes",
        f"{GENERATE}::test_convolutions_as_matrix_products_are_flax_s",
        f"{GENERATE}::test_convolutions_bring_any_length_back_and_see_its_end",
        f"{GENERATE}::test_convolutions_train",
        f"{PUBLISHED}::test_the_autoencoder_has_the_published_number_of_parameters",
        f"{PUBLISHED}::test_the_autoencoder_is_the_published_one",
        f"{PUBLISHED}::test_instance_norm_loses_a_vectors_own_mean_and_scale",
        f"{PUBLISHED}::test_parameters_start_as_in_pytorch",
        f"{COSTS}::test_the_width_of_a_latent",
        f"{COSTS}::test_the_width_is_that_of_the_encoders_output",
    ),
    "generate/(autoencoder|latents)": CODER,
    "generate/whitening": (
        *(
            f"{GENERATE}::test_{name}"
            for name in (
                "standardised_vectors_have_unit_spread_and_a_still_coordinate_stays_finite",
                "whitened_latents_have_identity_covariance_and_come_back",
                "pca_is_exact_where_the_latents_span_the_vectors",
            )
        ),
        f"{LEARNING}::test_latents_of_an_encoder_are_put_in_the_order_of_what_they_carry",
        *NULLS,
    ),
    "generate/noised": (f"{PUBLISHED}::test_checkpoints_with_noise_have_each_tensors_own_sd", *NULLS),
    "generate/generator": ("tests/test_generator.py", "tests/test_open_registry.py", "tests/test_wrong_numbers.py"),
    "generate/(average|average16|gaussian|identity|interpolate|low_rank_gaussian|noise)": NULLS,
    "generate/(random_latent|reconstruction|resample)": NULLS,
    "metrics": ("tests/test_metrics.py", "tests/test_memorisation.py"),
    "conformal": ("tests/test_conformal.py",),
}

PLANTED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "metrics": (
        ("bins closed at the left", 'confidence, side="left")', 'confidence, side="right")'),
        ("the gap of every image by itself", "jnp.sum(jnp.abs(gap)) /", "jnp.sum(jnp.abs(right - confidence)) /"),
        (
            "temperatures that flatten sharpen",
            "jnp.maximum(probabilities, TINY)) / temp",
            "probabilities + TINY) * temp",
        ),
        ("the right of both count", "np.sum(a_right & ~b_right)", "np.sum(a_right)"),
        ("images are not resampled", "np.bincount(generator.integers(0, n, n), minlength=n)", "np.ones(n)"),
        ("seeds are not resampled", "generator.integers(0, seeds, seeds)", "np.arange(seeds)"),
    ),
    "conformal": (
        ("no correction for a finite sample", "math.ceil((count + 1) * coverage", "math.ceil(count * coverage"),
        ("one threshold for all classes", "calibration.lac[calibration.labels == c]", "calibration.lac"),
    ),
    "batch_norm": (
        ("the statistics of the vector as it came", "return flatten(subset, {**full, **mean})", "return vector"),
        ("under the base's weights", "full = insert(subset, variables, vector)", "full = variables"),
    ),
    "split": (
        (
            "nothing is frozen",
            "_needed([step for step, c in pairs if c != INPUT], outputs)",
            "_needed([step for step, c in pairs], outputs)",
        ),
        ("effects move", "PARAMS if step.has_effects else max(", "max("),
        ("other shapes are taken", "    if got != expected:", "    if False:"),
        ("products of kernels that vary", "is_constant and small_maps", "small_maps"),
    ),
    "small_maps": (
        ("taps that are not there", "jnp.where(is_inside[..., None, None], taps[index], 0)", "taps[index]"),
        ("no offset by the padding", "+ low - target", "- target"),
        ("maps of any size", "max(sizes) <= PIXELS", "max(sizes) > 0"),
    ),
    "evaluation/scores": (
        ("a vote over one member", "majority_vote(jnp.asarray(members)", "majority_vote(jnp.asarray(members[:1])"),
        ("draws from one member", "sampled_vote(k, jnp.asarray(members))", "sampled_vote(k, jnp.asarray(members[:1]))"),
        ("the temperature ignored", "scaled = metrics.scale_temperature(p, temperature)", "scaled = p"),
        ("the temperature of the loss ignored", "e.temperatures[name][vote])\n    return", "1.0)"),
        ("the worst member is the best", "mean(axis=1).argmax()", "mean(axis=1).argmin()"),
        ("a pool is the mean", "Vote(p, own.pools[vote])", "Vote(before.mean, own.mean)"),
        (
            "a null is held against itself",
            'metrics.mcnemar(_right(e, e.main, "sbend")',
            'metrics.mcnemar(_right(e, other, "sbend")',
        ),
    ),
    "evaluation/predict": (
        ("the mean of one voter", "jnp.tensordot(rows, p,", "jnp.tensordot(rows, p[:1] + 0 * p,"),
        ("the first view again and again", "images(rows, view)", "images(rows, views[0])"),
        ("weights ignored", "*weights.values()]", "*(np.ones(members) for _ in weights)]"),
        ("running means of all members", "np.arange(members) < m", "np.arange(members) < members"),
        ("members of the first set", "dynamic_slice_in_dim(x, begin, members)", "dynamic_slice_in_dim(x, 0, members)"),
    ),
    "generate/autoencoder": (
        ("adamw(0.0)", "optax.adamw(rate,", "optax.adamw(0.0,"),
        ("no noise on latents", "mix(key, latents, settings.latent_noise)", "latents"),
        ("no noise on vectors", "noisy = mix(key_x, x, settings.input_noise)", "noisy = x"),
    ),
    "generate/bend": (
        ("the rest dropped", "if fitted.rest is None:", "if True:"),
        ("the rest at temperature 1", "fitted.rest.replace(scale=fitted.temperature)", "fitted.rest"),
        ("temperature ignored", "jnp.float32(settings.temperature)", "jnp.float32(1)"),
        (
            "all members are the mean",
            "draw(denoiser, key, m, width, settings, temperature)",
            "draw(denoiser, key, m, width, settings, 0 * temperature)",
        ),
        ("structure not looked for", "    if axes == 0:", "    if True:"),
        ("vectors' latents not turned", "coding.encode(latents, vectors), found.counts", "white, found.counts"),
    ),
    "generate/denoiser_training": (
        ("adamw(0.0)", "optax.adamw(settings.lr,", "optax.adamw(0.0,"),
        ("the last step is the best", "is_better = gain < state.best_loss", "is_better = gain < jnp.inf"),
        (
            "the start instead of what was learnt",
            'Learnt(state.best["params"][chosen], mask), found',
            "Learnt(first, mask), found",
        ),
        ("any gain is enough", "float(found.held_out + found.held_out_se)", "float(found.held_out)"),
        ("the start cannot win", "if float(found.held_out + found.held_out_se) < float(found.zero):", "if True:"),
        ("folds are trained on", "jnp.sum(~held, axis=1), fold)", "jnp.full(held.shape[0], k), fold)"),
        (
            "the held-out loss of those that were seen",
            "(_at(params, slice(-1)), mask, held)",
            "(_at(params, jnp.full(folds, -1)), mask, held)",
        ),
        ("the first candidate", "chosen = int(np.argmin(state.best_loss))", "chosen = 0"),
        ("a row that is not of the fold", "jnp.where(fold[held] == jnp.arange(folds)[:, None], held, k)", "held"),
        (
            "without the average",
            'zip(state.ema, data["masks"], strict=True)',
            'zip(state.params, data["masks"], strict=True)',
        ),
        (
            "the mask ignored in the loss",
            "return mask[None] * (v - v_from_eps(x, eps, bar)) ** 2",
            "return (v - v_from_eps(x, eps, bar)) ** 2",
        ),
        ("never stopped", "has_folds and int(np.min(state.since)) >= settings.patience", "False"),
    ),
    "generate/diffusion": (
        (
            "a Gaussian instead of the net",
            "v = masked(net, learnt.params, learnt.mask, x[:, :n], jnp.full(m, t))",
            "v = jnp.zeros((m, n))",
        ),
        (
            "the mask ignored",
            "return mask[None] * jnp.asarray(net.apply(params, mask[None] * x, t))",
            "return jnp.asarray(net.apply(params, x, t))",
        ),
        ("temperature of the start alone", "return mean + temperature * jnp.where", "return mean + jnp.where"),
        (
            "temperature of the steps alone",
            "jax.lax.scan(step, temperature * jax.random.normal(key_start, shape)",
            "jax.lax.scan(step, jax.random.normal(key_start, shape)",
        ),
        ("noise at the last step too", "jnp.where(t > 0, table.sigma[t], 0.0)", "table.sigma[t]"),
    ),
    "generate/gaussian": (("the knob ignored", "(fitted.scale * fitted.sd)[None]", "fitted.sd[None]"),),
    "generate/generator": (
        ("statistics stay", "if self.reestimate is None or", "if True or"),
        (
            "checkpoints get new statistics",
            "if self.reestimate is None or self.generator.draws_checkpoints:",
            "if self.reestimate is None:",
        ),
        ("the knob ignored", "jnp.float32(value)", "self.fitted.__getattribute__(self.generator.knob)"),
        ("what it needs is not asked", "generator.needs(generator.settings, len(vectors))", "pass"),
        ("one stream for all generators", 'stream(seed, "generate", generator.name)', 'stream(seed, "generate", "")'),
    ),
    "generate/latents": (
        (
            "vectors not standardised",
            "standardise(vectors) if settings.standardise",
            "as_it_is(vectors) if settings.standardise",
        ),
        ("latents without noise", "autoencoder.noised(key, clean, settings)", "clean"),
        (
            "latents in the encoder's order",
            "order_axes(whiten(found, found.shape[1]), found, scaled)",
            "whiten(found, found.shape[1])",
        ),
    ),
    "generate/low_rank_gaussian": (
        ("the diagonal ignored", "jnp.sqrt(1 - fitted.diagonal) * span + jnp.sqrt(fitted.diagonal) * own", "span"),
        ("the knob ignored", "fitted.scale * draws", "draws"),
    ),
    "generate/noised": (
        ("no noise", "fitted.scale, key_noise", "0.0, key_noise"),
        ("the first checkpoint alone", "fitted.vectors[chosen]", "fitted.vectors[0 * chosen]"),
        ("one sd for all tensors", "callbacks.subset or Subset", "Subset"),
    ),
    "generate/published": (
        ("adamw(0.0)", "optax.adamw(settings.lr,", "optax.adamw(0.0,"),
        (
            "the last step is the best",
            "return state.best if chooses and np.isfinite(state.best_loss) else state.ema",
            "return state.ema",
        ),
        ("each row its own timestep", "jnp.full_like(t, t[0]) if settings.shared_timestep else t", "t"),
        ("nothing clamped", "return jnp.clip(x, -1, 1) if on else x", "return x"),
        ("temperature ignored", "limit(mean + temperature * jnp.where", "limit(mean + jnp.where"),
        (
            "the mean accuracy counts",
            "np.max(accuracies, initial=-np.inf, where=np.isfinite(accuracies))",
            "np.mean(accuracies)",
        ),
    ),
    "generate/random_latent": (("the knob ignored", "fitted.scale * jax.random.normal", "jax.random.normal"),),
    "generate/structure": (
        ("chance ignored", "found.statistic > MARGIN * by_chance.max() and excess > above", "excess > above"),
        ("nothing is turned", "return best._replace(turn=turn)", "return best._replace(turn=np.eye(rank))"),
    ),
    "generate/whitening": (
        ("no floor under the spread", "jnp.maximum(sd, floor)", "sd"),
        ("axes in rising order", "[1][:, ::-1]", "[1]"),
    ),
}
