"""Whether the tests notice a wrong program: small faults (mutants), one at a time, and the tests of their module.

python tools/mutants.py                       # the sample and the list by hand, all modules; about half an hour
python tools/mutants.py split batch_norm      # of these modules
python tools/mutants.py --only survived       # those that tests/mutants.json has as survivors, again
python tools/mutants.py --only untested       # those that it does not have: goes on where a run was stopped
python tools/mutants.py --only ID             # one of them, by its id in tests/mutants.json

A fault is planted in a copy of the tree. Faults by hand stand in tools/planted.py. The others are a random sample of
what the rules below make of every expression. Left out: docstrings, annotations, messages of errors and warnings,
decorators, defaults and ranges of settings, matrix products' precision. A mutant that computes the same is written down
by hand in tests/mutants.json, as "equivalent" with a "why", and is not run again.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.planted import PLANTED, TESTS  # noqa: E402

RESULTS = ROOT / "tests" / "mutants.json"
COPIED = ("bend_jax", "tests", "benchmarks", "configs", "tools", "examples", "docs", "launch.py", "pyproject.toml")
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)  # in pytest's summary
SECONDS = 20  # of processor time, beside three times what the tests take without a fault
SWAPPED = {  # of operators
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
OTHER = {  # functions with the same arguments
    "mean": "sum",
    "sum": "mean",
    "std": "var",
    "var": "std",
    "max": "min",
    "min": "max",
    "argmax": "argmin",
    "argmin": "argmax",
    "maximum": "minimum",
    "minimum": "maximum",
    "zeros": "ones",
    "ones": "zeros",
    "normal": "uniform",
    "repeat": "tile",
    "sqrt": "abs",
    "exp": "abs",
    "any": "all",
    "all": "any",
    "sin": "cos",
    "tanh": "abs",
}
KEPT = {"precision", "stacklevel", "name", "strict", "static_argnames", "pytree_node", "kind"}  # keywords


class Mutant(NamedTuple):
    """One fault: bytes of a module from begin to end become `text`. id: module, function and change, which outlive
    edits elsewhere."""

    module: str
    line: int
    id: str
    change: str
    begin: int
    end: int
    text: str


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """What the rules make of an expression."""

    def with_(**fields: Any) -> ast.AST:
        result = copy.copy(node)
        for name, value in fields.items():
            setattr(result, name, value)
        return result

    match node:
        case ast.BinOp() | ast.BoolOp() if type(node.op) in SWAPPED:
            yield with_(op=SWAPPED[type(node.op)]())
        case ast.Compare():
            yield with_(ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield with_(value=not node.value)
        case ast.Constant(value=int() | float() as value):
            yield with_(value=value + 1)
        case ast.IfExp():
            yield with_(body=node.orelse, orelse=node.body)
        case ast.Call():
            for i, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg not in KEPT:
                    yield with_(keywords=node.keywords[:i] + node.keywords[i + 1 :])
            for i in range(len(node.args) - 1):
                names = [ast.unparse(arg) for arg in node.args[i : i + 2] if isinstance(arg, ast.Name | ast.Attribute)]
                if len(set(names)) == 2:
                    yield with_(args=[*node.args[:i], node.args[i + 1], *node.args[i + 1 :]])
            if isinstance(node.func, ast.Attribute):
                if node.func.attr in OTHER:
                    func = copy.copy(node.func)
                    func.attr = OTHER[node.func.attr]
                    yield with_(func=func)
                if ast.unparse(node.func) == "jax.random.split":  # the same key for everything
                    count = "2" if len(node.args) == 1 else ast.unparse(node.args[1])
                    yield ast.parse(f"jax.numpy.stack([{ast.unparse(node.args[0])}] * {count})", mode="eval").body
        case _:
            pass


def expressions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every expression that may be changed, with the function that it stands in."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params") or isinstance(tree, ast.Raise):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.FormattedValue):
                continue
            if isinstance(node, ast.keyword) and node.arg in KEPT:
                continue
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setting", "warn", "Error")):
                continue
            own = f"{inside}.{node.name}".lstrip(".") if isinstance(node, ast.FunctionDef | ast.ClassDef) else inside
            yield own, node
            yield from expressions(node, own)


def mutants_of(module: str) -> list[Mutant]:
    """All that the rules make of a module, in order."""
    source = (ROOT / "bend_jax" / f"{module}.py").read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found, seen = [], Counter[str]()
    for inside, node in expressions(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            pairs = [(node.test, f"not ({ast.unparse(node.test)})")]
        else:
            pairs = [(node, f"({ast.unparse(new)})") for new in changed(node)]
        for old, text in pairs:
            assert isinstance(old, ast.expr)
            assert old.end_lineno is not None
            assert old.end_col_offset is not None
            change = f"{ast.unparse(old)}  ->  {text}"
            seen[inside + change] += 1
            number = f" #{seen[inside + change]}" if seen[inside + change] > 1 else ""
            begin, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
            found.append(Mutant(module, old.lineno, f"{module}:{inside}: {change}{number}", change, begin, end, text))
    return found


def by_hand(module: str) -> list[Mutant]:
    """Those of tools/planted.py."""
    text, found = (ROOT / "bend_jax" / f"{module}.py").read_text(), []
    for name, old, new in PLANTED.get(module, ()):
        if text.count(old) != 1:
            raise SystemExit(f"tools/planted.py, {module}, {name!r}: its text stands there {text.count(old)} times")
        begin = len(text[: text.index(old)].encode())
        line = text[: text.index(old)].count("\n") + 1
        change = f"{old.strip()}  ->  {new.strip()}"
        found.append(Mutant(module, line, f"{module}: {name}", change, begin, begin + len(old.encode()), new))
    return found


class Copy:
    """A copy of the tree in a temporary folder, in which one mutant at a time stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, folder / name)
        self.clock = int(time.time())
        self.usual: dict[tuple[str, ...], tuple[float, list[str]]] = {}

    def write(self, module: str, content: bytes) -> None:
        """With a time that no version before it had: bytecode is looked up by it."""
        path, self.clock = self.folder / "bend_jax" / f"{module}.py", self.clock + 2
        path.write_bytes(content)
        os.utime(path, (self.clock, self.clock))

    def run(self, tests: tuple[str, ...], options: list[str], seconds: float) -> tuple[int, str, float]:
        """Exit status, output and processor seconds of pytest."""
        left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
        env = {name: value for name, value in os.environ.items() if name not in left_out}
        command = ["-m", "pytest", "-n0", "-q", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *command, *options, *tests],
            cwd=self.folder,
            env={**env, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5)),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            done.returncode,
            done.stdout + done.stderr,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )

    def without_fault(self, tests: tuple[str, ...]) -> tuple[float, list[str]]:
        """Processor seconds, and the tests that fail already, which then are left out."""
        if tests not in self.usual:
            status, output, seconds = self.run(tests, [], 3600)
            failing = FAILED.findall(output)
            options = [f"--deselect={test}" for test in failing]
            if failing:
                status, output, seconds = self.run(tests, options, 3600)
            if status:
                raise SystemExit(f"without a fault, {' '.join(tests)} fail:\n{output[-3000:]}")
            self.usual[tests] = (seconds, options)
            print(
                f"without a fault {seconds:.0f} s; left out, as they fail: {', '.join(failing) or 'none'}", flush=True
            )
        return self.usual[tests]

    def test(self, mutant: Mutant) -> dict[str, Any]:
        """The row of a mutant."""
        tests = tests_of(mutant.module)
        seconds, options = self.without_fault(tests)
        source = (self.folder / "bend_jax" / f"{mutant.module}.py").read_bytes()
        self.write(mutant.module, source[: mutant.begin] + mutant.text.encode() + source[mutant.end :])
        try:
            status, output, took = self.run(tests, ["-x", *options], 3 * seconds + SECONDS)
        finally:
            self.write(mutant.module, source)
        killer = FAILED.search(output)
        by = killer[1] if killer else "the import" if status in (2, 4) else "the time" if status else None
        row = {"id": mutant.id, "line": mutant.line, "change": mutant.change}
        print(f"{took:5.0f} s  {by or 'SURVIVED'}  {mutant.id}:{mutant.line}", flush=True)
        return {**row, "result": "killed" if by else "survived", **({"by": by} if by else {})}


def tests_of(module: str) -> tuple[str, ...]:
    """The most telling first: they stop at the first that fails."""
    return next(tests for pattern, tests in TESTS.items() if re.fullmatch(pattern, module))


def modules() -> list[str]:
    """Of the package, as far as they have tests in tools/planted.py."""
    paths = (path.relative_to(ROOT / "bend_jax").with_suffix("") for path in (ROOT / "bend_jax").rglob("*.py"))
    return sorted(str(path) for path in paths if any(re.fullmatch(pattern, str(path)) for pattern in TESTS))


def sample(module: str, share: float, seed: int) -> list[Mutant]:
    """That share of a module's mutants by rule, two at least, and those by hand."""
    found = mutants_of(module)
    chosen = random.Random(f"{seed} {module}").sample(found, min(len(found), max(2, round(share * len(found)))))
    return [*by_hand(module), *sorted(chosen, key=lambda mutant: mutant.begin)]


def counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of results; share_killed: of those that are not equivalent."""
    found = Counter(row["result"] for row in rows)
    tested = found["killed"] + found["survived"]
    numbers = {name: found[name] for name in ("killed", "survived", "equivalent")}
    return {**numbers, "share_killed": round(found["killed"] / max(tested, 1), 3)}


def save(rows: dict[str, dict[str, Any]]) -> None:
    """One row a mutant, by module."""
    ordered = sorted(rows.values(), key=lambda row: (row["id"].split(":")[0], row["line"]))
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in ordered)
    RESULTS.write_text(f'{{"counts": {json.dumps(counts(ordered))},\n"mutants": [\n{lines}\n]}}\n')


def main() -> None:
    """Run them one by one; results are written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"some of {', '.join(modules())}")
    parser.add_argument("--only", help='an id, "survived" or "untested"')
    parser.add_argument("--share", type=float, default=0.035, help="of the mutants by rule that are tested")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--list", action="store_true", help="print the sample; test nothing")
    given = parser.parse_args()
    unknown = set(given.modules) - set(modules())
    if unknown:
        raise SystemExit(f"no module {', '.join(unknown)}: there are {', '.join(modules())}")
    old = {row["id"]: row for row in json.loads(RESULTS.read_text())["mutants"]} if RESULTS.exists() else {}
    todo = [mutant for module in given.modules or modules() for mutant in sample(module, given.share, given.seed)]
    if given.only == "survived":
        todo = [mutant for mutant in todo if old.get(mutant.id, {}).get("result") == "survived"]
    elif given.only == "untested":
        todo = [mutant for mutant in todo if mutant.id not in old]
    elif given.only:
        todo = [mutant for mutant in todo if mutant.id == given.only]
    todo = [mutant for mutant in todo if old.get(mutant.id, {}).get("result") != "equivalent"]
    if given.list:
        print("\n".join(f"{mutant.id}:{mutant.line}" for mutant in todo))
        return
    known = {mutant.id for module in modules() for mutant in (*by_hand(module), *mutants_of(module))}
    old = {name: row for name, row in old.items() if name in known}  # what the source no longer has goes
    with tempfile.TemporaryDirectory() as folder:
        tree = Copy(Path(folder))
        for mutant in todo:
            old[mutant.id] = tree.test(mutant)
            save(old)
    print(counts(list(old.values())))


if __name__ == "__main__":
    main()
