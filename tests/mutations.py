"""Mutation testing: small mistakes are planted in a module, one at a time, and each should fail a test.

    python -m tests.mutations                                        70 of each file below, by a fixed seed
    python -m tests.mutations --sample 9999 gradcheck/metrics.py     all of a file
    python -m tests.mutations --only _sum: gradcheck/metrics.py      those whose line in the report has that text

Tests are collected once, and run once to know what they take and which lines they reach. A mistake then takes a fork of
this process, in which functions get the mistaken code, and the quickest tests that reach it. What is printed is what no
test saw, and how many there were. Tests that are slow, or run the program in another process, have no say.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import collections
import copy
import functools
import gc
import importlib
import inspect
import json
import os
import random
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

FILES = (
    "gradcheck/metrics.py",
    "gradcheck/tolerances.py",
    "gradcheck/checking.py",
    "gradcheck/reference/__init__.py",
    "gradcheck/reference/rule.py",
    "gradcheck/reference/stencils.py",
    "gradcheck/reference/values.py",
)
TESTS = (
    "tests/test_metrics.py",
    "tests/test_checking.py",
    "tests/test_observing.py",
    "tests/test_screening.py",
    "tests/losses/test_losses.py",
    "tests/reference",
)
SLOW_SECONDS = 1.5
"""A test that takes longer is left out."""

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
PAIRS = ("min max", "minimum maximum", "any all", "floor ceil", "argmin argmax", "zeros ones", "break continue")
SWAPPED = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        statement: the line of the statement that it is in; 0 where that runs when the module is imported.
        tree: the module with it, as long as the next one is not asked for.
    """

    path: str
    line: int
    statement: int
    within: str
    before: str
    after: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.within}: {self.before}  →  {self.after}"


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be mistaken for."""
    match node:
        case ast.operator() | ast.cmpop() | ast.boolop():
            yield from (other() for other in OPERATORS.get(type(node), ()))
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(value=str() as value):
            yield ast.Constant(f"XX{value}")
        case ast.UnaryOp():
            yield node.operand
        case ast.BoolOp():
            for n in range(len(node.values)):
                rest = node.values[:n] + node.values[n + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.If() | ast.While():
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield changed
        case ast.Name() if node.id in SWAPPED:
            yield ast.Name(SWAPPED[node.id], node.ctx)
        case ast.Attribute() if node.attr in SWAPPED:
            yield ast.Attribute(node.value, SWAPPED[node.attr], node.ctx)
        case ast.Call():
            name = ast.unparse(node.func)
            if name in ("abs", "np.abs", "int", "float", "math.ceil", "math.floor", "np.sign") and node.args:
                yield node.args[0]
            if name == "np.where":
                yield ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])
            for n in range(len(node.keywords)):
                yield ast.Call(node.func, node.args, node.keywords[:n] + node.keywords[n + 1 :])
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Call()):
            yield ast.Pass()


def places(node: ast.AST, within: str = "", span: Any = None, called: bool = False) -> Iterator[Any]:
    """Every node below one that is code: its parent, where it is there, the function, and the statement."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        within = f"{within}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for n, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            ):
                continue
            held = child if isinstance(child, ast.stmt) else span
            inside = called or (isinstance(node, ast.FunctionDef) and field == "body")
            yield node, field, n if isinstance(value, list) else None, within, held, inside
            yield from places(child, within, held, inside)


def mutants(path: str) -> Iterator[Mutant]:
    """All mistakes in a file."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for parent, field, n, within, statement, in_function in list(places(tree)):
        node = getattr(parent, field) if n is None else getattr(parent, field)[n]
        if isinstance(node, ast.expr_context | ast.Import | ast.ImportFrom):
            continue
        shown = parent if isinstance(node, ast.operator | ast.cmpop | ast.boolop) else node
        for new in changes(node):

            def put(value: ast.AST, parent: Any = parent, field: str = field, n: int | None = n) -> None:
                if n is None:
                    setattr(parent, field, value)
                else:
                    getattr(parent, field)[n] = value

            before = _head(shown)
            put(new)
            try:
                yield Mutant(
                    path=path,
                    line=getattr(node, "lineno", None) or getattr(parent, "lineno", statement.lineno),
                    # the table of stencils is made at import
                    statement=statement.lineno if in_function and "stencils" not in path else 0,
                    within=within,
                    before=before,
                    after=_head(shown if shown is parent else new),
                    tree=tree,
                )
            finally:
                put(node)


def _head(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0][:110]


def plant(path: str, tree: ast.Module) -> None:
    """Gives a module's other code to what is loaded already, wherever it has been imported to."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = importlib.import_module(name)
    other: dict[str, Any] = {"__name__": name, "__file__": path, "__package__": module.__package__}
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), other)
    _overwrite(name, vars(module), other, functools.partial(_rename, vars(module)))
    if "following" in other:  # a decorator, whose work is done
        once = other["following"](lambda exact, flush: None)
        for holder in list(sys.modules.values()):
            for value in list(vars(holder).values()) if holder else ():
                if isinstance(value, types.FunctionType) and value.__code__.co_qualname == once.__code__.co_qualname:
                    value.__code__ = once.__code__


def _rename(old: dict[str, Any], name: str, value: Any) -> None:
    before = old[name]
    for holder in list(sys.modules.values()):
        if holder and holder.__name__.startswith(("gradcheck", "tests")) and vars(holder).get(name) is before:
            setattr(holder, name, value)


def _overwrite(module: str, old: Any, new: Any, other: Callable[[str, Any], None]) -> None:
    for name, value in list(old.items()):
        changed = new.get(name)
        if inspect.isclass(value) and value.__module__ == module:
            _overwrite(module, vars(value), vars(changed), functools.partial(setattr, value))
        elif isinstance(value, property | functools.cached_property):
            of = "fget" if isinstance(value, property) else "func"
            _recode(getattr(value, of), getattr(changed, of))
        elif inspect.isfunction(value):
            if value.__module__ == module:
                _recode(value, changed)
        elif isinstance(value, int | float | str | tuple | dict) and name in new and not name.startswith("__"):
            other(name, changed)


def _recode(old: Any, new: Any) -> None:
    old, new = inspect.unwrap(old), inspect.unwrap(new)
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


class Mutations:
    """A pytest plugin: runs the collected tests on every mutant, instead of running them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Takes the place of pytest's own loop."""
        options = self.options
        items = {item.nodeid: item for item in session.items}
        # a child that collects garbage would copy all that there is
        gc.freeze()
        reached = _of_child(lambda: _reached(session.items, options.files), 3600)
        assert reached is not None
        seconds = {name: found[0] for name, found in reached.items()}
        print(f"{len(seconds)} of {len(items)} tests, {sum(seconds.values()):.0f} s", flush=True)
        kills: collections.Counter[str] = collections.Counter()
        for path in options.files:
            counts: collections.Counter[str] = collections.Counter()
            size = sum(1 for _ in mutants(path))
            drawn = set(random.Random(0).sample(range(size), min(options.sample, size)))
            tests = {name: set(lines.get(path, ())) for name, (_, lines) in reached.items()}
            for n, mutant in enumerate(mutants(path)):
                if n not in drawn or options.only not in str(mutant):
                    continue
                chosen, left = [], options.seconds
                # first what is quick and has seen many
                for name in sorted(seconds, key=lambda name: seconds[name] / (1 + kills[name])):
                    if left > 0 and (not mutant.statement or mutant.statement in tests[name]):
                        chosen.append(items[name])
                        left -= seconds[name]
                found = _of_child(functools.partial(_killer, mutant, chosen), 60)
                kills[found] += 1
                kind = found if found in ("survived", "unreached") else "killed" if found else "timed out"
                counts[kind] += 1
                if kind != "killed":
                    print(f"{kind}: {mutant}", flush=True)
            print(f"{path}: {size} mistakes, of which were tried {counts.total()}:", dict(counts), flush=True)
        return True


def _of_child(function: Callable[[], Any], cpu_seconds: int) -> Any:
    """What a function gives in a fork of this process; None where it takes too long."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            signal.alarm(10 * cpu_seconds)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            with os.fdopen(sending, "w", encoding="utf-8") as stream:
                json.dump(function(), stream)
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8") as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


def _killer(mutant: Mutant, items: Sequence[pytest.Item]) -> str:
    """The first test that fails."""
    if not items:
        return "unreached"
    try:
        plant(mutant.path, mutant.tree)
    except Exception:
        return "the import"
    for n, item in enumerate(items):
        reports = runtestprotocol(item, log=False, nextitem=items[n + 1] if n + 1 < len(items) else None)
        if any(report.failed for report in reports):
            return item.nodeid
    return "survived"


def _reached(items: Sequence[pytest.Item], files: Sequence[str]) -> dict[str, tuple[float, dict[str, list[int]]]]:
    """What each test takes that is quick enough and passes, and the lines that it reaches."""
    lines: dict[str, set[int]] = {path: set() for path in files}
    builtins._reached = lambda path, line: lines[path].add(line)  # type: ignore[attr-defined]
    for path in files:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in list(ast.walk(function)):
                for name in ("body", "orelse", "finalbody"):
                    body = getattr(node, name, None)
                    if isinstance(body, list) and body and not hasattr(body[0], "seen"):
                        setattr(node, name, [new for old in body for new in (_notice(path, old.lineno), old)])
        plant(path, tree)

    def too_slow(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, too_slow)
    found = {}
    for item, following in zip(items, [*items[1:], None], strict=True):
        for seen in lines.values():
            seen.clear()
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, SLOW_SECONDS)
        try:
            reports = runtestprotocol(item, log=False, nextitem=following)
        except BaseException:
            continue
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if all(report.passed for report in reports) and any(lines.values()):
            found[item.nodeid] = (time.process_time() - start, {path: sorted(seen) for path, seen in lines.items()})
    return found


def _notice(path: str, line: int) -> ast.stmt:
    call = ast.Expr(ast.Call(ast.Name("_reached", ast.Load()), [ast.Constant(path), ast.Constant(line)], []))
    call.seen = True  # type: ignore[attr-defined]
    return call


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--tests", nargs="+", default=TESTS)
    parser.add_argument("--sample", type=int, default=70, help="mistakes in each file")
    parser.add_argument("--seconds", type=float, default=2, help="of tests for each mistake")
    parser.add_argument("--only", default="", help="text that the mistake's line in the report has")
    options = parser.parse_args()
    sys.exit(pytest.main(["-p", "no:cacheprovider", *options.tests], plugins=[Mutations(options)]))


if __name__ == "__main__":
    main()
