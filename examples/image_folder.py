"""A folder of images, one folder a class, through a run: here one that Pillow draws, of pictures of any size.

python examples/image_folder.py [a folder to write into]
"""

import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from bend_jax.run.command_line import main

folder = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp())
rng = random.Random(0)


def draw(width, height):
    """A bright bar of this size on a dark ground, with sizes, places and colours drawn at random."""
    size = rng.randint(32, 48), rng.randint(32, 48)
    picture = Image.new("RGB", size, tuple(rng.randrange(90) for _ in range(3)))
    x, y = ((length - own) // 2 + rng.randint(-4, 4) for length, own in zip(size, (width, height), strict=True))
    colour = tuple(rng.randrange(120, 256) for _ in range(3))
    ImageDraw.Draw(picture).rectangle((x, y, x + width, y + height), fill=colour)
    return picture


# the names of the folders are the classes; their order is that of the labels
for part, count in (("train", 120), ("test", 40)):
    for name, bar in (("across", (20, 8)), ("upright", (8, 20))):
        place = folder / "images" / part / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            draw(*bar).save(place / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")

settings = {
    "data.name": f"folder:{folder / 'images'}",
    "data.resize": 16,  # pixels: the short side becomes 16, and the centre is cut out
    "data.noise": 0,
    "data.mean": "(0.3,0.3,0.3)",  # of the training images by channel; three numbers: colour
    "data.std": "(0.2,0.2,0.2)",
    "base.epochs": 8,
    "base.milestones": "(6,)",
    "collect.k": 10,
    "collect.views": 1,
    "members": 10,
    "generate.name": "gaussian",  # to be quick: without these two lines the diffusion model generates
    "generate.nulls": "",
}
flags = [f"--config.{name}={value}" for name, value in settings.items()]
flags += ["--stages=base,collect,generate,evaluate", f"--workdir={folder / 'run'}"]  # no report, to be quick
sys.exit(main(["image_folder.py", "--config=digits", *flags]))
