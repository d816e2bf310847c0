"""Every setting of a run. Tasks are short differences from this one; published values unless a line says otherwise.

python launch.py --config=configs/<task>.py --config.collect.k=100 --config.collect.subset=layer4.1.bn2
"""

from typing import Any

from ml_collections import ConfigDict


def data() -> dict[str, Any]:
    """The images, their split and their augmentation."""
    return dict(
        name="cifar10",  # cifar100, mnist, fashion_mnist, digits, or npz:PATH for x_train y_train x_test y_test
        dir="",  # where tensorflow-datasets are prepared; empty: TFDS_DATA_DIR, or its own default
        noise=0.0,  # sd of Gaussian pixel noise on [0, 1], added once to every split
        split_seed=0,  # of split and noise: the same in every run, whatever --seed
        validation=0.1,  # share of the training images held out, stratified ...
        validation_most=5000,  # ... and at most so many
        crop=4,  # random shift by up to 4 pixels
        flip=True,  # random mirror image
        rotation=0.0,  # random turn by up to so many degrees
        mean=(0.4914, 0.4822, 0.4465),  # of the training images, by channel
        std=(0.2023, 0.1994, 0.2010),
    )


def backbone() -> dict[str, Any]:
    """The network."""
    return dict(
        name="resnet50",  # resnet18, resnet34, resnet50, regnetx_400mf, regnety_400mf
        widths=(),  # channels of each stage; empty: the published 64, 128, 256, 512
        blocks=(),  # blocks of each stage; empty: the published ones
        dtype="float32",  # of the computation; parameters are float32 always
    )


def base() -> dict[str, Any]:
    """Training of the base."""
    return dict(
        epochs=100,
        batch=64,
        lr=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4,  # coupled: added to the gradient, as PyTorch's SGD does
        schedule="step",  # or "cosine"
        milestones=(30, 60, 90),  # epochs after which "step" multiplies the rate ...
        decay=0.2,  # ... by this
        warmup=0,  # epochs of linear warm-up
    )


def collect() -> dict[str, Any]:
    """k checkpoints of a subset of the parameters."""
    return dict(
        name="trajectory",  # or "bootstrap"
        subset="layer4.2.bn2,layer4.2.bn3",  # the last block's BN: 5120 numbers
        k=200,  # checkpoints
        views=4,  # augmented views of each image whose frozen features are cached [ours]
        batch=64,
        cache_dtype="float32",  # of the cached features; the tasks, an accelerator's, take bfloat16 [ours]
        trajectory=dict(
            lr=1.6e-4,  # the base's rate after its last decay, 0.1 * 0.2**4
            momentum=0.9,
            weight_decay=5e-4,
        ),
        bootstrap=dict(  # bagging in Breiman's sense [ours]
            epochs=2,  # of each checkpoint, from the base, on its own resample
            lr=0.05,
            momentum=0.9,
            weight_decay=5e-4,
            reinitialise=False,  # start from fresh random values of the subset instead
        ),
    )


def generate() -> dict[str, Any]:
    """m members out of them, and the nulls."""
    return dict(
        name="bend",  # the generator that the report is about
        nulls="gaussian,identity",  # and what it has to beat on the same checkpoints
        bend=dict(
            autoencoder=dict(
                kind="mlp",  # four layers and four layers
                latent=64,
                hidden=256,
                steps=500,  # longer training shrinks what lies between the checkpoints [ours]
                segment=250,  # steps between two checks
                lr=3e-4,
                weight_decay=2e-6,
                input_noise=1e-3,  # x <- noise * eps + (1 - noise) * x
                latent_noise=0.1,  # z <- noise * eps + (1 - noise) * z
            ),
            diffusion=dict(
                timesteps=1000,
                beta_start=1e-4,  # both ends are scaled by 1000 / timesteps
                beta_end=0.02,
                variance="beta",  # of a sampling step, as in eq. 3; or "posterior"
                width=64,  # small and few steps: a large net trained long makes copies [ours]
                blocks=3,
                steps=2000,
                segment=250,  # steps between two looks at the held-out loss
                patience=2,  # segments without a better one before it stops
                holdout=0.1,  # share of the checkpoints held out; none below 20
                batch=256,  # (checkpoint, timestep, noise) triples a step
                lr=1e-3,
                weight_decay=0.0,
                ema=0.9999,
            ),
        ),
        gaussian=dict(),
        identity=dict(),
    )


def evaluate() -> dict[str, Any]:
    """The votes."""
    return dict(
        draws=10,  # of aBEND
        bins=15,  # of the calibration error
        batch=500,  # images a program; changes no number
    )


def compute() -> dict[str, Any]:
    """Speed and memory."""
    return dict(
        memory_mb=16384,  # of intermediates in one program, and of cached features: a GPU's; changes no number
        save_seconds=30.0,  # a running stage saves its state this far apart at least
    )


def get_config() -> ConfigDict:
    """ResNet-50 on CIFAR-10 as BEND trains it."""
    config = ConfigDict()
    config.task = "res50_cifar10"  # the name in the report
    config.members = 100  # m, the generated base classifiers
    for group in (data, backbone, base, collect, generate, evaluate, compute):
        config[group.__name__] = group()
    return config
