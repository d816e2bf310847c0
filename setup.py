"""The package and its extras. Lower bounds are versions that were installed together and run: tools/matrix.sh does it
again, with what tools/lowest.py reads here."""

from setuptools import find_packages, setup

TENSORBOARD = ["tensorboardX>=2.6.2.2"]
EXPORT = ["flatbuffers>=23.5.26", "safetensors>=0.4.0"]
DIGITS = ["scikit-learn>=1.5.0", "threadpoolctl>=3.1.0"]
DOCS = ["furo>=2025.12.19", "myst-parser>=5.2.0", "sphinx>=9.0.0"]
REPORT = ["matplotlib>=3.10.7"]
TEST = [
    "basedpyright>=1.40.0",  # pyright with a node of its own
    "beartype>=0.23.0",
    "dm-haiku>=0.0.16",  # two libraries whose networks `fit` takes
    "equinox>=0.13.2",
    "hypothesis>=6.170.0",
    "pytest>=9.0.0",
    "pytest-xdist>=3.8.0",
    "ruff>=0.17.0",
]

setup(
    name="bend_jax",
    version="0.1.0",
    description="A cheap, honest, well-calibrated ensemble out of one training run, in JAX.",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_data={"bend_jax": ["py.typed"]},
    # configs/ is installed inside the package, where bend-jax finds it
    packages=[*find_packages(include=["bend_jax", "bend_jax.*"]), "bend_jax.configs", "bend_jax.configs.paper"],
    package_dir={"bend_jax.configs": "configs"},
    entry_points={"console_scripts": ["bend-jax=bend_jax.run.command_line:console"]},
    install_requires=[
        "absl-py>=1.4.0",
        "array_record>=0.5.0",
        "flax>=0.12.1",
        "importlib_resources>=5.12.0",  # tensorflow-datasets imports it without declaring it
        "jax>=0.8.1",
        "jaxtyping>=0.2.34",
        "ml_collections>=1.1.0",
        "numpy>=2.0.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.33,<1",
        "pillow>=9.4.0",
        "pooch>=1.7.0",
        "scipy>=1.13.0",
        "tabulate>=0.9.0",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.65.0",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.8.1"],
        "digits": DIGITS,
        "docs": DOCS,
        "export": EXPORT,
        "report": REPORT,
        "tensorboard": TENSORBOARD,
        "test": TEST + DIGITS + DOCS + EXPORT + REPORT + TENSORBOARD,
    },
)
