"""What report.json holds on what a generator learnt: copies or new networks, and its diffusion."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Copying:
    """A generator that was fitted without the held-out checkpoints, against those. None where nothing was held out.

    z_u: the data-copying score of Meehan et al. (2020), below 0 where members are nearer to the training checkpoints
    than held-out ones are; nearest, nearest_held_out: these mean distances; energy: the energy distance of members to
    held-out checkpoints, its 95% interval, and p of its permutation test.
    """

    z_u: float | None
    nearest: float | None
    nearest_held_out: float | None
    energy: float | None
    energy_low: float | None
    energy_high: float | None
    energy_p: float | None


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What the main generator's diffusion learnt beyond the Gaussian that it starts from, by cross-validation.

    step: of least held-out loss, 0 where it kept its start; latents: diffused; losses of v summed over them: held_out,
    on checkpoints that a denoiser was not trained on, with the standard error of its difference from zero's; zero: of
    v_hat = 0, the Gaussian's; seen: on checkpoints that it was trained on. None without folds.
    """

    step: int
    latents: int
    held_out: float | None
    held_out_se: float | None
    zero: float | None
    seen: float | None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Networks that nothing has learnt, means over them: as in `Table3` and `Novelty`."""

    accuracy: float
    max_iou: float
    nearest: float
    disagreement: float
    disagreement_p10: float


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Tests of Zeng et al. (2025).

    fitted_to, held_out: how many checkpoints the generators were fitted to once more, and the others; copying: by the
    name of the generator, "base": one that gives the base alone; references: "checkpoints" (each against the others),
    "noise SD" (checkpoints with noise of SD times each tensor's own sd), "average16" (means of 16 checkpoints), "base";
    boundaries: share of the grid of images on which a member and its nearest checkpoint differ.
    """

    fitted_to: int | float | None
    held_out: int | float | None
    copying: dict[str, Copying]
    references: dict[str, Reference]
    boundaries: float | None
