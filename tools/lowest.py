"""The lowest versions that setup.py allows, as constraints for pip: `pip install -c <(python tools/lowest.py) .`"""

import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.py"
BOUND = re.compile(r'"([\w.-]+)(?:\[\w+\])?>=([\d.]+)')  # "jax[cuda12]>=0.7.1"


def lowest() -> dict[str, str]:
    """The lower bound of every package that setup.py names."""
    return dict(BOUND.findall(SETUP.read_text()))


if __name__ == "__main__":
    for package, version in lowest().items():
        print(f"{package}=={version}")
