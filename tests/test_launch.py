"""The command line: every mistake is one line and exit code 2, and asking costs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bend_jax import storage
from bend_jax.data import archives
from bend_jax.run import command_line, config_file, forecast

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch.py"
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
DEFAULT = f"--config={ROOT / 'configs' / 'default.py'}"
TABLE3 = "--config={root}/configs/paper/table3.py"
STAGES = "base, collect, generate, evaluate, report"


class Ended(NamedTuple):
    """What a command said, and what it left in the directory that it ran in."""

    code: int
    out: str
    err: str
    left: list[str]


class Terminal:
    """An empty directory, where the default work directory would be as well, to type commands in."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def type(self, words: str) -> Ended:
        """Run a command line in this process."""
        code = command_line.main([str(LAUNCH), *words.split()])
        return Ended(code, *self.capsys.readouterr(), self.left())

    def start(self, *words: str, interpreter: str = sys.executable) -> Ended:
        """Run it as a user does, in an interpreter of its own."""
        command = [interpreter, str(LAUNCH), *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False)
        return Ended(done.returncode, done.stdout, done.stderr, self.left())

    def left(self) -> list[str]:
        """What lies there now."""
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*")]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """In a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Terminal(tmp_path, capsys)


class Mistake(NamedTuple):
    """A command line with {files} for the directory of npz files, and what its error has to say."""

    words: str
    says: tuple[str, ...]


MISTAKES = {
    "unknown setting": Mistake("--config.collect.kk=3", ("unknown setting collect.kk", "did you mean 'collect.k'?")),
    "unknown group": Mistake("--config.colect.k=3", ("unknown setting colect.k", "did you mean 'collect.k'?")),
    "setting of another group": Mistake("--config.momentum=0.5", ("momentum", "did you mean", ".momentum'")),
    "a group as a setting": Mistake("--config.base=3", ("base is a group of settings", "base.lr")),
    "an empty group as a setting": Mistake(
        "--config.generate.average16=3", ("average16 is a group of settings: none",)
    ),
    "text for a whole number": Mistake("--config.collect.k=many", ("collect.k", "int", "'many'")),
    "fraction for a whole number": Mistake("--config.members=2.5", ("members", "int", "'2.5'")),
    "text for a number": Mistake("--config.base.lr=fast", ("base.lr", "float", "'fast'")),
    "text for a truth value": Mistake("--config.data.flip=perhaps", ("data.flip", "bool", "'perhaps'")),
    "text in several values": Mistake("--config.backbone.widths=(16,'x',64)", ("backbone.widths[1]", "int", "'x'")),
    "no such configuration": Mistake("--config=nowhere.py", ("nowhere.py", "configs/default.py", "configs/digits.py")),
    "misspelt configuration": Mistake("--config=configs/paper/tabel3.py", ("did you mean 'configs/paper/table3.py'?",)),
    "a broken configuration": Mistake("--config={files}/broken.py", ("broken.py cannot be loaded", "SyntaxError")),
    "a configuration without get_config": Mistake("--config={files}/empty.py", ("empty.py", "get_config")),
    "a configuration that raises": Mistake("--config={files}/raises.py", ("raises.py cannot be loaded", "KeyError")),
    "rows that raise": Mistake("--config={files}/rows.py", ("rows.py cannot be loaded", "ZeroDivisionError")),
    "a configuration of another type": Mistake(
        "--config={files}/none.py", ("none.py must return a ConfigDict", "None")
    ),
    "no configuration": Mistake("", ("no --config", "configs/default.py", "configs/digits.py")),
    "unknown flag": Mistake("--work_dir=x", ("unknown flag --work_dir", "did you mean --workdir=x?")),
    "a flag without its value": Mistake("--workdir", ("--workdir",)),
    "text for a switch": Mistake("--dry_run=perhaps", ("--dry_run", "bool", "'perhaps'")),
    "a negated setting that is unknown": Mistake("--noconfig.data.flp", ("data.flp", "did you mean 'data.flip'?")),
    "stray argument": Mistake("configs/digits.py", ("unexpected argument 'configs/digits.py'", "--config.name=value")),
    "a setting as a flag": Mistake("--members=10", ("unknown flag --members", "mean --config.members=10?")),
    "the last part of a setting as a flag": Mistake("--k=10", ("--k ", "mean --config.collect.k=10?")),
    "a misspelt setting as a flag": Mistake("--colect.k=10", ("--colect.k", "mean --config.collect.k=10?")),
    "--config misspelt": Mistake("--confg=digits", ("unknown flag --confg", "mean --config=digits?")),
    "--config forgotten": Mistake("digits", ("no --config", "did you mean --config=digits?")),
    "a short name misspelt": Mistake("--config=digit", ("no file digit ", "did you mean 'digits'?")),
    "a sweep of one of many": Mistake("--sweep=lr=1,2", ("unknown setting lr", "base.lr or collect.")),
    "no such folder": Mistake("--config.data.name=folder:{files}/no", ("no folder", "/no;", "PATH/train/<class>/*")),
    "folder without classes": Mistake(
        "--config.data.name=folder:{files}", ("has no folders of classes", "it holds broken.py", "PATH/<class>/*")
    ),
    "a set that is not prepared": Mistake(
        "--config.data.name=tfds:food102 --config.data.dir={files}", ("not prepared in", "/food102", "data.dir")
    ),
    "unknown stage": Mistake("--stages=base,colect", ("unknown 'colect'", "did you mean 'collect'?", STAGES)),
    "no stage": Mistake("--stages=", ("--stages",)),
    "a seed that is no number": Mistake("--seed=one", ("--seed", "'one'")),
    "a fraction as a seed": Mistake("--seed=0,1.5", ("--seed", "1.5")),
    "a negative seed": Mistake("--seed=-1", ("--seed", "from 0")),
    "the same seed twice": Mistake("--seed=1,1", ("--seed", "different")),
    "k of one": Mistake("--config.collect.k=0", ("collect", "k must be at least 1; got 0")),
    "no members": Mistake("--config.members=0", ("members must be at least 1; got 0",)),
    "too little noise": Mistake(
        "--config.generate.bend.diffusion.beta_end=1e-3", ("beta_end leaves alpha_bar[T]", "raise it")
    ),
    "too few steps": Mistake("--config.generate.bend.diffusion.timesteps=10", ("diffusion", "timesteps=10", "below 1")),
    "unknown collector": Mistake("--config.collect.name=bootstap", ("collect.name", "did you mean 'bootstrap'?")),
    "unknown null": Mistake("--config.generate.nulls=gausian", ("generate.nulls", "did you mean 'gaussian'?")),
    "work directory below a file": Mistake(
        "--workdir={files}/empty.py/runs", ("--workdir", "empty.py", "cannot write")
    ),
    "unknown data set": Mistake("--config.data.name=digit", ("unknown data set 'digit'", "did you mean 'digits'?")),
    "no npz there": Mistake("--config.data.name=npz:{files}/no.npz", ("no file", "no.npz", "x_train", "y_test")),
    "npz of floats": Mistake(
        "--config.data.name=npz:{files}/float.npz", ("float.npz", "uint8", "float32[40, 8, 8, 1]")
    ),
    "npz without channels": Mistake(
        "--config.data.name=npz:{files}/flat.npz", ("flat.npz", "[n, h, w, c]", "x_test is uint8[40, 8]")
    ),
    "npz with too few labels": Mistake("--config.data.name=npz:{files}/few.npz", ("few.npz", "y_test", "[39]")),
    "npz without y_test": Mistake("--config.data.name=npz:{files}/lacks.npz", ("lacks.npz", "y_test")),
    "npz with a pickle": Mistake("--config.data.name=npz:{files}/pickle.npz", ("pickle.npz", "x_train")),
    "npz that is none": Mistake("--config.data.name=npz:{files}/empty.py", ("empty.py", "x_train")),
    "channels without a mean": Mistake("--config.data.mean=(0.5,0.5) --config.data.std=(1.0,1.0)", ("data.mean", "2")),
    "subset of nothing": Mistake("--config.collect.subset=layer3.0.bm2", ("'layer3.0.bm2' matches", "layer3.0.bn2")),
    "empty subset": Mistake("--config.collect.subset=", ("collect.subset", "no pattern")),
    "batch above the images": Mistake("--config.base.batch=600", ("base.batch=600", "599 training images")),
    "unknown backbone": Mistake("--config.backbone.name=resnet19", ("unknown backbone 'resnet19'", "resnet18")),
    "widths without blocks": Mistake("--config.backbone.widths=(16,32)", ("backbone", "(16, 32)", "(1, 1, 1)")),
    "stage that is not there": Mistake(
        "--stages=generate", ("base, collect: needed", "store", "add base,collect to --stages")
    ),
    "first stage not there": Mistake(
        "--stages=evaluate,report", ("base, collect, generate bend", "add base,collect,generate to --stages")
    ),
    "a deep ensemble of a part": Mistake("--config.collect.name=independent", ("trains whole networks", "subset '*'")),
    "statistics of no BN": Mistake("--config.collect.name=mc_bn", ("mc_bn", "subset 'batch_stats'")),
    "a subset too large": Mistake(
        "--config.collect.subset=* --config.compute.memory_mb=50",
        ("78,426 numbers", "313,704,000 bytes", "52,428,800 are allowed", "compute.memory_mb"),
    ),
    "averages of too few": Mistake("--config.generate.nulls=average16 --config.collect.k=10", ("average16", "k=10")),
    "stages of a comparison": Mistake("--config={root}/configs/compare_digits.py --stages=base", ("--stages",)),
    "a scale of a configuration without": Mistake(
        f"{DIGITS}:full", ("--config", "digits.py has no scales", "configs/paper")
    ),
    "unknown scale": Mistake(f"{TABLE3}:ful", ("'ful'", "did you mean 'full'?", "digits, cifar10_small")),
    "a sweep of no setting": Mistake("--sweep=collect.kk=2,3", ("--sweep", "unknown setting collect.kk")),
    "a sweep of a comparison": Mistake(
        "--config={root}/configs/compare_digits.py --sweep=collect.k=2,3", ("--sweep", "rows of its own")
    ),
    "a sweep to where no run can be": Mistake("--sweep=collect.k=5,0", ("row 'collect.k=0'", "at least 1; got 0")),
    "a comparison of runs with settings": Mistake("--compare=a,b", ("--compare", "takes --workdir alone", "--config")),
    "a comparison of runs that are not there": Mistake(
        "--compare={files}/a,{files}/b", ("--compare", "no folder", "/a")
    ),
    "a seed too large": Mistake("--seed=99999999999999999999 --dry_run", ("--seed",)),
    "a network with NaN": Mistake(
        "--init={files}/../nan --config.data.init_unseen=test --config.data.validation=0.5",
        ("--init:", "NaN or Inf in 2 of ", "params.fc.bias (3 of 10", "layer2.0.bn1.var (1 of 32"),
    ),
    "no such flag file": Mistake("--flagfile=nowhere", ("nowhere",)),
}


def write_files(folder: Path) -> None:
    """Data sets and configurations that cannot be used."""
    images, labels = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 10
    whole = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    marker = folder / "executed"
    changes: dict[str, dict[str, Any]] = {
        "float": {"x_train": images.astype(np.float32)},
        "flat": {"x_test": images[:, :, 0, 0]},
        "few": {"y_test": labels[:-1]},
        "pickle": {"x_train": np.array([Touch(marker)] * 40, dtype=object)},
    }
    for name, change in changes.items():
        np.savez(folder / f"{name}.npz", **{**whole, **change})
    np.savez(folder / "lacks.npz", **{name: value for name, value in whole.items() if name != "y_test"})
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "empty.py").write_text('"""Nothing."""\n')
    (folder / "raises.py").write_text("def get_config():\n    return {}['lr']\n")
    (folder / "none.py").write_text("def get_config():\n    pass\n")
    digits = (
        f"from runpy import run_path\nget_config = run_path({str(ROOT / 'configs' / 'digits.py')!r})['get_config']\n"
    )
    (folder / "rows.py").write_text(f"{digits}\ndef get_rows(config):\n    return 1 / 0\n")
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes())
    variables["params"]["fc"]["bias"][:3] = np.nan
    variables["batch_stats"]["layer2"]["0"]["bn1"]["var"][5] = np.inf
    storage.save_tree(folder.with_name("nan"), variables)


class Touch:
    """Pickled as a call: whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `write_files` writes."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(name: str, files: Path, terminal: Terminal) -> None:
    """What came, what is there, what to do; exit code 2. And nothing beside the files that were read."""
    before = sorted(files.rglob("*"))
    words = MISTAKES[name].words.format(files=files, root=ROOT)
    is_complete = words.startswith(("--config=", f"--compare={files}", "--confg", "digits")) or not words
    check_mistake(name, terminal.type(words if is_complete else f"{DIGITS} {words}"))
    assert sorted(files.rglob("*")) == before


def check_mistake(name: str, found: Ended) -> None:
    """One line that says what it must, and nothing else."""
    assert (found.code, found.out, found.left) == (2, "", []), found.err
    assert found.err.startswith("launch.py: ")
    assert found.err.count("\n") == 1
    for text in MISTAKES[name].says:
        assert text in found.err


def test_a_mistake_of_a_user_who_types_it(terminal: Terminal) -> None:
    """The same in an interpreter of its own, where warnings of libraries would be seen as well."""
    check_mistake("subset of nothing", terminal.start(DIGITS, MISTAKES["subset of nothing"].words))


def test_no_pickle_of_a_data_set_is_executed(files: Path, terminal: Terminal) -> None:
    """Its file would be there."""
    assert terminal.type(f"{DIGITS} --config.data.name=npz:{files / 'pickle.npz'}").code == 2
    assert not (files / "executed").exists()
    with np.load(files / "pickle.npz", allow_pickle=True) as file:
        assert len(file["x_train"]) == 40
    (files / "executed").unlink()


def test_a_package_that_is_missing_is_told(terminal: Terminal) -> None:
    """By another interpreter than the environment's: which module, for which interpreter, and what to do."""
    bare = terminal.folder.with_name("bare")
    (bare / "bin").mkdir(parents=True)
    (bare / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (bare / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    found = terminal.start("--help", interpreter=str(bare / "bin" / "python"))
    assert (found.code, found.out, found.left) == (2, "", [])
    assert found.err.startswith(f"launch.py: the module 'absl' is not installed for {bare / 'bin' / 'python'}: ")
    assert found.err.endswith((".venv/bin/python launch.py\n", "pip install -e . with this interpreter\n"))


def answer(words: str, terminal: Terminal) -> str:
    """What a question prints; it writes nothing and says nothing on stderr."""
    found = terminal.type(words)
    assert (found.code, found.err, found.left) == (0, "", [])
    return found.out


def test_help_names_every_flag_and_shows_examples(terminal: Terminal) -> None:
    """On one screen, without the flags of libraries, and without a wait for them."""
    out = terminal.start("--help").out
    for flag in ("config", "workdir", "stages", "seed", "sweep", "print_config", "dry_run", "help"):
        assert f"  --{flag} " in out
    assert "python launch.py --config=configs/digits.py" in out
    assert "--config.collect" in out
    assert "absl" not in out
    lines = out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120
    for words in ("-h", f"{DIGITS} --nonsense --help"):
        assert answer(words, terminal) == out


def printed(out: str) -> dict[str, Any]:
    """The settings that --print_config prints."""
    pairs = [line.split(" = ", 1) for line in out.splitlines()]
    return {name: ast.literal_eval(value) for name, value in pairs}


def settings_of(name: str) -> dict[str, Any]:
    """Of a configuration, by dotted names."""
    return flatten_dict(run_path(str(ROOT / "configs" / name))["get_config"]().to_dict(), sep=".")


def test_print_config_lists_every_setting(terminal: Terminal) -> None:
    """With its value, as Python writes it; no data are needed."""
    expected = settings_of("default.py")
    out = answer(f"{DEFAULT} --print_config", terminal)
    assert printed(out) == expected
    assert len(out.splitlines()) == len(expected)


def test_print_config_shows_what_flags_change(terminal: Terminal) -> None:
    """And only that; a data set that is not there does not matter, a wrong value does. Both signs of a flag, its value
    as the next word, and a file of flags."""
    flagfile = terminal.folder.with_name("flags")
    flagfile.write_text("--config.base.lr=0.3\n")
    changes = {"collect.k": 7, "data.name": "npz:/nowhere.npz", "generate.nulls": "", "base.milestones": (1, 2)}
    words = [f"--config.{name}={value}".replace(" ", "") for name, value in changes.items()]
    changes |= {"data.flip": True, "base.nesterov": False, "members": 9, "base.lr": 0.3, "compute.tensorboard": False}
    words += ["--config.data.flip", "--noconfig.base.nesterov", "--config.members", "9", f"--flagfile={flagfile}"]
    out = answer(" ".join([DIGITS, "--print_config", *words]), terminal)
    assert printed(out) == settings_of("digits.py") | changes
    wrong = terminal.type(f"{DIGITS} --print_config --config.collect.k=0")
    assert (wrong.code, wrong.out) == (2, "")
    assert "k must be at least 1" in wrong.err


def test_a_papers_configuration_is_executed_once_and_at_its_first_scale(terminal: Terminal) -> None:
    """Where none is given after the colon."""
    table3 = TABLE3.format(root=ROOT)
    out = answer(f"{table3} --print_config", terminal)
    assert "task = 'table3_digits'" in out
    assert "row 'res50_digits' (sbend)" in out
    assert answer(f"{table3}:digits --print_config", terminal) == out
    assert "task = 'table3_full'" in answer(f"{table3}:full --print_config", terminal)
    own = terminal.folder.with_name("noisy.py")
    own.write_text(
        f"print('executed')\n{(ROOT / 'configs' / 'digits.py').read_text()}".replace("__file__", repr(DIGITS[9:]))
    )
    assert answer(f"--config={own} --print_config", terminal).count("executed") == 1


def test_configurations_are_found_by_name_from_any_folder(terminal: Terminal) -> None:
    """With or without their folder and .py; a report calls them by one name. A file of one's own goes first."""
    for typed in ("digits", "digits.py", "configs/digits", "configs/digits.py", DIGITS[9:]):
        found = config_file.read(typed)
        assert (found.name, found.settings.task) == ("configs/digits.py", "digits")
    for typed in ("table3:full", "paper/table3:full", "configs/paper/table3.py:full"):
        assert config_file.read(typed)[:2] == ("configs/paper/table3.py", "full")
    assert config_file.find("setup") is None
    (terminal.folder / "digits.py").write_text((ROOT / "configs" / "default.py").read_text())
    found = config_file.read("digits")
    assert (found.name, found.settings.task) == ("digits.py", "res50_cifar10")


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run whose forecast is known; tests/test_forecast.py is about that."""
    found = forecast.Forecast({"base": 90.0, "collect": 7200.0, "report": 3.0}, 40.0, 3 * 2**30)
    monkeypatch.setattr(forecast, "forecast", lambda s: found)


@pytest.mark.usefixtures("untimed")
def test_a_dry_run_needs_no_data(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a network: a line says what a run would download."""
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setitem(archives.SIZES, "mnist", archives.Sizes(700, 100, (8, 8, 1), 10))  # to be quick
    words = f"{DIGITS} --dry_run --config.data.name=mnist --config.data.dir={terminal.folder}/none"
    first, second, *_ = answer(words, terminal).splitlines()
    assert first.startswith(f"mnist: {terminal.folder}/none/downloads/bend_jax/mnist/train-images-idx3-ubyte.gz is not")
    assert "467 training, 233 validation, 100 test images of 8x8x1, 10 classes" in second


def test_a_dry_run_of_images_that_do_not_fit_counts_operations(terminal: Terminal) -> None:
    """ImageNet is not there, and 193 GB are not taken for its stand-in. Seconds of this machine are not told."""
    words = "--dry_run --config.data.name=tfds:imagenet2012 --config.data.resize=224 --config.data.mean=.5,.5,.5"
    words += f" --config.data.std=.2,.2,.2 --config.data.dir={terminal.folder}/none --config.base.epochs="
    found = [answer(f"{DIGITS} {words}{epochs}", terminal).splitlines() for epochs in (3, 6)]
    assert found[0][0].startswith(f"tfds:imagenet2012: not prepared in {terminal.folder}/none/imagenet2012")
    lines = [{line.split()[0]: line for line in one} for one in found]
    assert "1276167 training, 5000 validation, 50000 test images of 224x224x3, 1000 classes" in lines[0]["data"]
    assert "images take 186.6 GiB" in lines[0]["time"]
    counts = [{stage: float(x) for stage, x in re.findall(r"(\w+) ([\d.]+e[+]\d+)", one["counted"])} for one in lines]
    assert counts[1]["base"] == pytest.approx(2 * counts[0]["base"], rel=0.02)
    assert counts[1]["collect"] == counts[0]["collect"] > 0
    assert counts[1]["evaluate"] == counts[0]["evaluate"] > counts[1]["generate"] > 0


def shapes() -> Any:
    """Of the digits' net."""
    from bend_jax import models

    net = models.build("resnet18", 10, widths=(16, 32, 64), blocks=(1, 1, 1))
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32))


@pytest.mark.usefixtures("untimed")
def test_dry_run_prints_the_dimensions(terminal: Terminal) -> None:
    """Images, parameters, subset, k and m, time and memory."""
    lines = {line.split()[0]: line for line in answer(f"{DIGITS} --dry_run", terminal).splitlines()}
    assert "599 training, 300 validation, 898 test images of 8x8x1, 10 classes" in lines["data"]
    parameters = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes()["params"]))
    assert f"{parameters:,} parameters" in lines["backbone"]
    assert "256 numbers in 4 leaves" in lines["subset"]
    assert "params.layer3.0.bn2.scale" in lines["subset"]
    assert re.search(r"\b100 checkpoints by trajectory\b", lines["collect"])
    assert re.search(r"\b100\b", lines["members"])
    assert "2.0 h: base 90 s, collect 2.0 h, report 3 s; and about 40 s of compilation" in lines["time"]
    assert "3 GiB at the peak" in lines["memory"]


@pytest.mark.usefixtures("untimed")
def test_dry_run_follows_the_settings(terminal: Terminal) -> None:
    """bn2 of the last block has 2 x 64 numbers, the last layer 64 x 10 + 10; 8 views do not fit one MiB."""
    words = f"{DIGITS} --dry_run --config.collect.k=7 --config.members=11 --config.collect.name=bootstrap"
    words += " --config.evaluate.coverage=0.999"
    words += " --config.collect.subset=layer3.0.bn2,fc --config.compute.memory_mb=1"
    lines = {line.split()[0]: line for line in answer(words, terminal).splitlines()}
    assert f"{128 + 650} numbers in 4 leaves" in lines["subset"]
    assert re.search(r"\b7 checkpoints by bootstrap\b", lines["collect"])
    assert "streamed" in lines["collect"]
    assert re.search(r"\b999 validation images", lines["no"])  # conformal sets
    assert re.search(r"\b11\b", lines["members"])


@pytest.mark.slow
def test_a_sweep_with_rows_that_stopped_ends_with_1(terminal: Terminal) -> None:
    """In one line that names them, after the report."""
    pytest.importorskip("sklearn")
    words = [DIGITS, "--config.backbone.widths=(4,8)", "--config.backbone.blocks=(1,1)"]
    words += ["--config.collect.subset=layer2.0.bn2", "--workdir=runs", "--sweep=base.lr=1e30,1e31"]
    done = terminal.start(*words)
    assert done.code == 1, done.err
    said = "launch.py: 2 of 2 rows stopped, as the report says: base.lr=1e+30; base.lr=1e+31"
    assert done.err.splitlines()[-1] == said
    assert "base stopped: base: NaN or Inf" in done.out
    assert (terminal.folder / "runs" / "report" / "report.md").exists()
