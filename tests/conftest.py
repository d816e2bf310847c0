"""Every test runs with shapes checked (jaxtyping, beartype), rank promotion refused, and programs that are kept and
compiled without optimisation, here and in the processes that tests start."""

import os
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

CACHE = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache" / "bend_jax" / "compiled")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # most of these tests is compiling

if sys.dont_write_bytecode:  # then not in the tree, but kept: modules with checked shapes compile slowly
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(CACHE / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix  # of the processes that tests start

# and most of compiling is optimisation, which takes longer than it saves in these small programs
QUICK = ["backend_optimization_level=0", "cpu_parallel_codegen_split_count=1"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # XLA ends a process with a flag that it does not know
    QUICK.append("cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*(f"--xla_{flag}" for flag in QUICK), os.environ.get("XLA_FLAGS", "")])

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("bend_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.problems", "tests.programs", "tests.reports")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests begin first: begun last, one of them would leave the other workers idle at the end."""
    count = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -count[item.path])
