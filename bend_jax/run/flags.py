"""The flags of launch.py, and what --help says. Imports no jax, so that --help is quick."""

from typing import Any

from absl import flags

from bend_jax.checks import SettingsError, expanded

USAGE = """bend_jax: an ensemble out of one training run.

  python launch.py --config=configs/digits.py                      the whole run
  python launch.py --config=configs/digits.py --seed=0,1,2         three runs, mean and standard deviation
  python launch.py --config=configs/compare_digits.py --seed=0,1,2 many systems in one table
  python launch.py --config=configs/digits.py --sweep=collect.k=2,10,50 --sweep=members=10,100    a grid of runs
  python launch.py --config=configs/paper/table3.py:digits         a table of the papers, or :cifar10_small, :full
  python launch.py --compare=runs/digits,runs/other                finished runs side by side, without computing
  python launch.py --evaluate=logits.npz                           the report of any networks, by their logits
  python launch.py --config=configs/digits.py --print_config       every setting and its value
  python launch.py --config=configs/digits.py --dry_run            dimensions, memory, a rough time
  python launch.py --config=configs/digits.py --distributed=HOST:PORT,COUNT,INDEX   one of COUNT processes

Any setting is a flag:  --config.collect.name=bootstrap --config.collect.k=20 --config.members=10
"""
PATHS = ("workdir", "init", "compare", "verify", "evaluate")  # --config is looked up among ours too
STAGES = ("base", "collect", "generate", "evaluate", "report", "export")


def define_flags() -> flags.FlagValues:
    """The flags, in the order of --help; those of settings (--config.name) come from the configuration."""
    own = flags.FlagValues()
    own.set_gnu_getopt()  # a flag after an argument is read as well
    text, several, switch = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_bool
    text("config", "", "A file with get_config() or the name of one of ours: digits; a paper's takes :SCALE.", own)
    text("workdir", "", "Where everything is written; runs/<task> where none is given.", own)
    which = f"Which of {','.join(STAGES)} to run; what they read must be in the store."
    several("stages", list(STAGES[:-1]), which, own)
    several("seed", ["0"], "The seed of all randomness; several with commas run one after the other.", own)
    text("init", "", "A trained model to start from: .safetensors or .pth of PyTorch, or an orbax folder.", own)
    values = "setting=value,value: a run for each, in one table; several: a grid. ; between values with commas."
    flags.DEFINE_multi_string("sweep", [], values, own)
    own["sweep"].help = values  # absl appends a remark in a second line
    several("compare", [], "Work directories of finished runs, to put side by side; computes nothing.", own)
    text("verify", "", "A work directory: check every file of its store against what was written.", own)
    switch("repair", False, "Compute those stages again whose files are not what was written.", own)
    text("evaluate", "", "An .npz of members' logits and labels, to report on; trains nothing (docs/evaluate.md).", own)
    processes = "One run in many processes: HOST:PORT,COUNT,INDEX, or auto on a cluster (docs/devices.md)."
    text("distributed", "", processes, own)
    switch("tensorboard", False, "Write TensorBoard's event files under <workdir>/tensorboard as well.", own)
    switch("print_config", False, "Print every setting and stop; reads no data, writes nothing.", own)
    switch("dry_run", False, "Time the first steps; print dimensions, memory and seconds of each stage, and stop.", own)
    switch("help", False, "Print this and stop.", own, short_name="h")
    name_types(own)
    return own


def expand_paths(own: flags.FlagValues) -> None:
    """~ as its folder in every flag that is a path: a shell leaves it as it is behind =. Raises SettingsError for one
    that is given and empty, as of a variable that is not set."""
    for name in PATHS:
        flag: Any = own[name]
        if not flag.present:
            continue
        words: list[str] = flag.value if isinstance(flag.value, list) else [flag.value]
        if not words or not all(words):
            raise SettingsError(f"--{flag.name} needs a path, and an empty one was given: give one, or leave it out")
        paths = [str(expanded(word)) for word in words]
        flag.value = paths if isinstance(flag.value, list) else paths[0]


class Typed(flags.ArgumentParser):
    """A flag's parser whose error names the type that the flag takes."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self.parser = parser

    def parse(self, argument: Any) -> Any:
        """The value; the flag puts its own name in front of an error."""
        try:
            return self.parser.parse(argument)
        except (TypeError, ValueError):
            raise ValueError(f"takes a value of type {self.parser.flag_type()}; got {argument!r}") from None


def name_types(values: flags.FlagValues) -> None:
    """Make the error of every flag name the flag's type."""
    for flag in every_flag(values):
        flag.parser = Typed(flag.parser)


def every_flag(values: flags.FlagValues) -> list[flags.Flag]:
    """The flags in the order of their definition, without their short names."""
    return [values[name] for name in values if name == values[name].name]
