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
        imbalance=1.0,  # largest class over smallest of a long-tailed training set
        noise=0.0,  # sd of Gaussian pixel noise on [0, 1], added once to every split
        split_seed=0,  # of split and noise: the same in every run, whatever --seed
        validation=0.1,  # share of the training images held out, stratified ...
        validation_most=5000,  # ... and at most so many
        unseen=0.0,  # share of the training images that the base never sees: the collector has them alone
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
        name="trajectory",  # bootstrap, cyclical, boosting, independent, mc_bn
        subset="layer4.2.bn2,layer4.2.bn3",  # the last block's BN: 5120 numbers
        k=200,  # checkpoints
        views=4,  # augmented views of each image whose frozen features are cached [ours]
        batch=64,
        cache_dtype="float32",  # of the cached features; the tasks, an accelerator's, take bfloat16 [ours]
        trajectory=dict(
            lr=1.6e-4,  # the base's rate after its last decay, 0.1 * 0.2**4
            momentum=0.9,
            weight_decay=5e-4,
            statistics="frozen",  # of BN; "drift": all of them move meanwhile, as in the published code
        ),
        bootstrap=dict(  # bagging in Breiman's sense [ours]
            epochs=2,  # of each checkpoint, from the base, on its own resample
            lr=0.05,
            momentum=0.9,
            weight_decay=5e-4,
            resample=True,  # False: each one sees the whole training set
            reinitialise=False,  # start from fresh random values of the subset instead
            perturb=0.0,  # p of a start sqrt(1 - p^2) w + p std(w) eps, leaf by leaf
        ),
        cyclical=dict(  # k = 1 (the base) + cycles * per_cycle
            epochs=4,  # of a cycle
            per_cycle=1,  # checkpoints of a cycle, at the ends of its last epochs
            lr=0.05,  # at the start of a cycle; half a cosine from there to 0
            momentum=0.9,
            weight_decay=5e-4,
            noise="none",  # in the epochs that end with a checkpoint: "langevin" (cSGLD) or "momentum" (cSGHMC)
            temperature=1.0,  # of that noise
        ),
        boosting=dict(  # CBNN; the base is the first of k
            epochs=2,  # between two checkpoints
            eta=0.1,  # damping of the weights' update, in (0, 1]: 1 is SAMME [ours]
            lr=0.01,
            momentum=0.9,
            weight_decay=5e-4,
        ),
        independent=dict(),  # the base and k - 1 more trainings by the base's recipe
        mc_bn=dict(),  # BN statistics of k random training batches; give it subset=batch_stats
    )


def generate() -> dict[str, Any]:
    """m members out of them, and the nulls."""
    return dict(
        name="bend",  # the generator that the report is about
        nulls="gaussian,identity",  # and what it has to beat on the same checkpoints
        tune=(),  # values of temperature or scale of which the best on validation is taken, for each generator alike
        statistics=2048,  # training images for the BN statistics of members whose subset holds them
        bend=dict(
            autoencoder=dict(
                kind="mlp",  # four layers and four layers; "conv": 1-D convolutions; "pca": principal components
                latent=64,  # of mlp and pca
                hidden=256,
                fold=5,  # stride and kernel of conv: 5 is p-diff's medium, 3 its small one
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
                prediction="eps",  # or "v"
                sampler="ddpm",  # or "ddim", deterministic, in ddim_steps
                ddim_steps=50,
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
            temperature=1.0,  # of all the sampler's noise: below 1 nearer to the mean, above 1 more diverse
        ),
        gaussian=dict(scale=1.0),  # an independent Gaussian for every coordinate; scale: of its spread
        low_rank_gaussian=dict(scale=1.0, diagonal=0.0),  # the checkpoints' covariance; diagonal=0.5 is SWAG's
        noise=dict(scale=1.0),  # the mean and white noise
        average16=dict(),  # means of 16 checkpoints
        average=dict(),  # one member, the mean
        resample=dict(),  # checkpoints drawn with replacement
        interpolate=dict(),  # points between two checkpoints
        random_latent=dict(scale=1.0),  # bend's decoder on Gaussian latents
        autoencoder=dict(),  # checkpoints through bend's autoencoder and back
        identity=dict(),  # the checkpoints themselves
    )


def evaluate() -> dict[str, Any]:
    """The votes."""
    return dict(
        draws=10,  # of aBEND
        bins=15,  # of the calibration error
        views="identity",  # of each image: flip, left, right, up, down (by a pixel); every vote is over members x views
        greedy=0,  # members that a greedy vote chooses on validation, with replacement; 0: no such vote
        ood="",  # data sets to be told from the test images: mnist, fashion_mnist, npz:PATH; none, each takes time
        corruptions="",  # noise,blur,contrast,brightness,pixelate,jpeg; none, each is five more test sets
        batch=500,  # images a program; changes no number
    )


def compute() -> dict[str, Any]:
    """Speed, memory, and what can be watched."""
    return dict(
        memory_mb=16384,  # of intermediates in one program, and of cached features: a GPU's; changes no number
        save_seconds=30.0,  # a running stage saves its state this far apart at least
        tensorboard=False,  # event files of all trainings; the flag --tensorboard sets it
    )


def get_config() -> ConfigDict:
    """ResNet-50 on CIFAR-10 as BEND trains it."""
    config = ConfigDict()
    config.task = "res50_cifar10"  # the name in the report
    config.members = 100  # m, the generated base classifiers
    for group in (data, backbone, base, collect, generate, evaluate, compute):
        config[group.__name__] = group()
    return config
