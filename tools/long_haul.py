"""Many fits and a long time of predictions in one process: what is left of memory, file handles, threads and files.

python tools/long_haul.py                             # 200 fits, then predictions for 30 minutes
python tools/long_haul.py --fits=20 --seconds=60      # fewer
python tools/long_haul.py --leak=64                   # KiB that are kept after each sample: must be found

The resident memory is read after each fit, and ten times a second of predictions; each phase is judged on its own,
without its first fifth, in which programs are compiled. Its growth is the Theil-Sen slope (the median of the slopes of
all pairs) times the number of samples. It is a leak where the slope's interval of 99% is above 0 and the growth is
above GROWTH of the memory at the start of the phase: allocators keep some pages for a while.
"""

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
GROWTH = 0.01
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)  # of glibc


def leaks(resident: list[int]) -> tuple[float, bool]:
    """(bytes that the resident memory has grown by, whether that is a leak), of samples in their order; the first fifth
    does not count."""
    own = np.asarray(resident[len(resident) // 5 :], np.float64)
    found: Any = theilslopes(own, alpha=0.99)
    growth, low = float(found.slope) * len(own), float(found.low_slope)
    return growth, bool(low > 0 and growth > GROWTH * own[0])


def held() -> dict[str, int]:
    """What the process holds besides memory."""
    temporary = [*Path(tempfile.gettempdir()).rglob("*")]
    numbers = {"handles": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}
    return numbers | {"temporary files": len(temporary)}


def resident() -> int:
    """Bytes, once what nothing refers to is gone, and the allocator has given back the pages that it keeps."""
    gc.collect()
    TRIM(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fits(number: int) -> Iterator[Any]:
    """So many ensembles on new images each, by different collectors and generators in turn."""
    import bend_jax
    from tests.problems import QUICK, blobs, blobs_apply

    variables, images, labels = blobs()
    ways = [
        (bend_jax.Trajectory(k=6, batch=16, lr=0.1), QUICK),
        (bend_jax.Bootstrap(k=6, batch=16, lr=0.1), bend_jax.Gaussian()),
    ]
    for i in range(number):
        collect, generate = ways[i % len(ways)]
        seen = images + np.random.default_rng(i).normal(0, 0.1, images.shape).astype(np.float32)
        how: dict[str, Any] = {"collect": collect, "generate": generate, "members": 6, "seed": i, "unseen": True}
        yield bend_jax.fit(blobs_apply, variables, seen, labels, subset="head", progress=False, **how)


def predictions(ensemble: Any, seconds: float) -> Iterator[None]:
    """Votes on new images for so long; numbers of images that were not seen before would be compiled anew."""
    rng, end = np.random.default_rng(0), time.monotonic() + seconds
    while time.monotonic() < end:
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            images = rng.normal(size=(int(rng.choice((1, 7, 64))), 5)).astype(np.float32)
            ensemble.predict_proba(images)
            ensemble.predict_set(images, coverage=0.8)
        yield


def main() -> int:
    """Returns 1 where anything is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--leak", type=int, default=0, help="KiB")
    given, kept, ensemble, bad = parser.parse_args(), list[bytes](), None, 0
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        for phase in ("fits", "predictions"):
            samples, before, started = list[int](), dict[str, int](), time.monotonic()
            turns = fits(given.fits) if phase == "fits" else predictions(ensemble, given.seconds)
            for i, made in enumerate(turns):
                ensemble = made or ensemble
                kept.append(os.urandom(1024 * given.leak))
                samples.append(resident())
                if i == 3:  # each way has been used
                    before = held()
            growth, is_leak = leaks(samples)
            left = {name: n - before[name] for name, n in held().items() if n > before[name]}
            bad += is_leak or bool(left)
            print(
                f"{phase}: {len(samples)} samples in {time.monotonic() - started:.0f} s; resident memory "
                f"{samples[len(samples) // 5] / 2**20:.1f} MiB, growth {growth / 2**20:+.2f} MiB"
                f"{', a leak' if is_leak else ''}; left: {left or 'nothing'}",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
