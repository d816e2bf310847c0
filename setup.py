"""The package and its extras. Lower bounds are versions that were installed and run."""

from setuptools import find_packages, setup

TENSORBOARD = ["tensorboardX>=2.6.5"]
EXPORT = ["flatbuffers>=25.12", "safetensors>=0.8"]
REPORT = ["matplotlib>=3.10"]
TEST = [
    "basedpyright>=1.40",  # pyright with a node of its own
    "beartype>=0.23",
    "hypothesis>=6.170",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "scikit-learn>=1.9",
]

setup(
    name="bend_jax",
    version="0.1.0",
    description="A cheap, honest, well-calibrated ensemble out of one training run, in JAX.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bend_jax", "bend_jax.*"]),
    install_requires=[
        "absl-py>=2.5",
        "array_record>=0.8",
        "flax>=0.12.8",
        "importlib_resources>=7",  # tensorflow-datasets imports it without declaring it
        "jax>=0.10.2",
        "jaxtyping>=0.3.11",
        "ml_collections>=1.1",
        "numpy>=2.4",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<1",
        "pillow>=13",
        "pooch>=1.9",
        "tabulate>=0.10",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.70",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.10.2"],
        "digits": ["scikit-learn>=1.9"],
        "docs": ["furo>=2025.12", "myst-parser>=5.2", "sphinx>=9.0"],
        "export": EXPORT,
        "report": REPORT,
        "tensorboard": TENSORBOARD,
        "test": TEST + EXPORT + REPORT + TENSORBOARD,
    },
)
