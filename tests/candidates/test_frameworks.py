"""Frameworks as candidates: on the whole catalogue, with losses of the user's own, under every option."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from gradcheck import candidates, checking, tolerances
from gradcheck.candidates import Candidate
from gradcheck.candidates._answers import Question
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import MissingExtraError, NotApplicableError
from gradcheck.problem import Problem
from gradcheck.reference import Settings
from gradcheck.results import Judged, Outcome, Skipped, Verdict
from tests.conftest import Program, make_problem

ROOT = Path(__file__).parent.parent.parent
COMPOSED = ("tensorflow", "keras", "jax", "optax")
"""Those around whose loss the same options are composed."""


def marked(*names: str) -> list[ParameterSet]:
    """Frameworks as parameters."""
    return [pytest.param(name, marks=getattr(pytest.mark, name)) for name in names]


FRAMEWORKS = marked("torch", *COMPOSED)
WITH_SCIPY = [*FRAMEWORKS, *marked("scipy")]
EVERY_DTYPE = [word for name in ("float16", "bfloat16", "float32", "float64") for word in ("--dtype", name)]


@pytest.fixture
def framework(request: pytest.FixtureRequest) -> str:
    """A framework that is installed."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"the extra '{request.param}' is not installed")
    return str(request.param)


def failing(out: str) -> set[tuple[str, str]]:
    """Case and format of each result that failed; none may have crashed, or been skipped but for an option."""
    results = json.loads(out)["results"]
    assert {result["verdict"] for result in results} <= {"pass", "fail", "skipped"}
    for result in results:
        if result["verdict"] == "skipped":
            assert re.search(r"undefined|has no|does not know|takes no loss options", result["reason"]), result[
                "reason"
            ]
    return {(result["case"], result["dtype"]) for result in results if result["verdict"] == "fail"}


IGNORED = {("nonfinite-ignored-row", dtype) for dtype in ("float16", "bfloat16", "float32", "float64")}
HALF_SUM = {("equal-70000", "float16"), ("equal-65536", "float16")}
# torch.logsumexp's backward is exp(l - lse), the form that loses digits in proportion to the logits
DIVISION_FREE = {("z-loss-offset", dtype) for dtype in ("float16", "bfloat16", "float32", "float64")}


def test_an_option_that_a_framework_is_not_known_to_take_is_refused() -> None:
    """Left out in silence, it would make a sound framework fail; what changes nothing may be left out."""
    problem = make_problem([[0.0, 1.0]], [1], loss=["weight=1,2", "label_smoothing=0", "reduction=mean"])
    asked = Question.of(problem)
    _losses.refuse_others("x", asked, ("weight",))
    with pytest.raises(NotApplicableError, match=r"x has no weight$"):
        _losses.refuse_others("x", asked, ("mask",))


@pytest.mark.parametrize("framework", marked("torch", "jax"), indirect=True)
def test_the_whole_catalogue(framework: str, program: Program) -> None:
    """65,536 equal logits in float16; PyTorch: NaN in ignored rows, a z-loss at an offset; others flush subnormals."""
    words = ["stability", "--candidate", framework, *EVERY_DTYPE, "--format", "json"]
    found = failing(program(*words).out)
    assert found >= HALF_SUM
    if framework == "torch":
        assert found == IGNORED | HALF_SUM | DIVISION_FREE
    else:
        assert ("underflow-subnormal-gradient", "float32") in found
        assert not found & IGNORED
        # one format will do: it is the arithmetic that flushes
        ran = program("stability", "--candidate", framework, "--dtype", "float32", "--ftz", "--format", "json")
        assert (ran.code, failing(ran.out)) == (0, set())


THEIRS = {
    "tensorflow": {"soft-off-simplex", "underflow-subnormal-gradient"},
    "keras": {"soft-off-simplex", "underflow-subnormal-gradient"},
    "optax": {"underflow-subnormal-gradient"},
    "scipy": set(),
}


@pytest.mark.parametrize("framework", marked("tensorflow", "keras", "optax", "scipy"), indirect=True)
def test_where_they_fail(framework: str, program: Program) -> None:
    """ŷ − y of labels that do not add up to 1, flushed subnormals, no NaN of a row that is left out."""
    names = (*THEIRS["tensorflow"], "nonfinite-*", "plain-*", "offset-plus-1e3", "ties-*", "saturated-gap-2*")
    words = ["stability", "--candidate", framework, "--dtype", "float32", "--format", "json"]
    found = failing(program(*words, *(word for name in names for word in ("--case", name))).out)
    assert found == {(case, "float32") for case in THEIRS[framework]}


@pytest.mark.parametrize("framework", marked("torch", "jax"), indirect=True)
def test_the_saturated_true_class_under_ulp(framework: str, program: Program) -> None:
    words = [
        "stability",
        "--candidate",
        framework,
        "--tolerance",
        "ulp:4",
        "--case",
        "saturated-gap-20",
        "--format",
        "json",
    ]
    assert failing(program(*words).out) == {("saturated-gap-20", "float32"), ("saturated-gap-20", "float64")}


COMMON = [
    ["softcap=3", "temperature=0.7", "z_loss=0.01", "reduction=mean"],
    ["mask=1,1,1,0", "upstream=0.5,2,-1"],
]
OPTIONS = {
    "torch": [
        ["like=torch", "label_smoothing=0.1", "weight=1,2,0.5,3", "ignore_index=1"],
        ["upstream=-3", "reduction=mean", "weight=1,2,0.5,3", "z_loss=0.1"],
        *COMMON,
    ],
    **{
        name: [["reduction=mean", "ignore_index=1"], ["reduction=mean:count", "ignore_index=1", "upstream=-3"], *COMMON]
        for name in COMPOSED
    },
    "scipy": [["reduction=mean"], ["reduction=mean:rows"]],
}
OPTIONS["keras"].append(["label_smoothing=0.1", "reduction=mean:rows"])
HAS_NOT = {
    "torch": {"label_smoothing=0.1:others": "label_smoothing=0.1:others", "reduction=mean:count": "mean:count"},
    **{name: {"label_smoothing=0.1:others": "label_smoothing", "weight=1,2,3": "has no weight"} for name in COMPOSED},
    "scipy": {"label_smoothing=0.1": "takes no loss options", "temperature=2": "takes no loss options"},
}
LOGITS, LABELS = [[1, 2, -0.5, 0], [0.25, -1, 3, 1], [0, 0.5, 1, -2]], [0, 1, 2]


@cache
def loaded(name: str) -> Candidate:
    """One child for all tests: some take a quarter of a minute to start."""
    return candidates.load(name)


def judged(name: str, problem: Problem) -> Outcome:
    """What is found of a framework."""
    how = checking.How(tolerance=tolerances.Stable(), settings=Settings())
    (found,) = checking.outcomes(problem, [loaded(name)], how)
    return found.outcome


def agrees(name: str, problem: Problem) -> None:
    """Gradient and loss are right."""
    outcome = judged(name, problem)
    assert isinstance(outcome, Judged), outcome
    assert outcome.verdict is Verdict.PASS, outcome
    assert outcome.conduct is not None
    assert outcome.conduct.loss is None, outcome.conduct


@pytest.mark.parametrize("framework", WITH_SCIPY, indirect=True)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_options(framework: str, dtype: str) -> None:
    for options in OPTIONS[framework]:
        problem = make_problem(LOGITS, LABELS, dtype, options)
        agrees(framework, problem)
        agrees(framework, problem.take(np.arange(1, 3)))


@pytest.mark.parametrize("framework", WITH_SCIPY, indirect=True)
def test_soft_labels(framework: str) -> None:
    agrees(framework, make_problem(LOGITS, [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]], "float32"))


@pytest.mark.parametrize("framework", WITH_SCIPY, indirect=True)
def test_what_it_has_not_is_skipped(framework: str, program: Program) -> None:
    for option, said in HAS_NOT[framework].items():
        outcome = judged(framework, make_problem([[1, 2, 3]], [0], "float64", [option]))
        assert isinstance(outcome, Skipped)
        assert said in outcome.reason
    ran = program("check", "--case", "plain-3", "--candidate", framework, "--device", "nothing:7")
    assert ran.code == 2
    assert re.search(r"(torch|jax|tensorflow|scipy) cannot use the device 'nothing:7'", ran.err)


@pytest.mark.parametrize("framework", marked("optax", "scipy"), indirect=True)
def test_what_differentiates_nothing_takes_no_loss(framework: str, program: Program) -> None:
    ran = program("check", "--case", "plain-3", "--candidate", f"{framework}:mine.py:loss")
    assert ran.code == 2
    assert f"is not {framework}'s: give it as" in ran.err


TORCH = """
import torch
from torch.nn.functional import cross_entropy
def rows(logits, labels): return cross_entropy(logits, labels, reduction="none")
def total(logits, labels): return cross_entropy(logits, labels, reduction="sum")
def mean(logits, labels): return cross_entropy(logits, labels)
def full(logits, labels, reduction="mean", weight=None, label_smoothing=0.0, ignore_index=-100):
    more = dict(reduction=reduction, label_smoothing=label_smoothing, ignore_index=ignore_index)
    return cross_entropy(logits, labels, weight, **more)
class Module(torch.nn.Module):
    def __init__(self, label_smoothing=0.0):
        super().__init__(); self.smoothing = label_smoothing
    def forward(self, logits, labels):
        return cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")
instance = Module()
class Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        p = torch.softmax(logits, 1)
        ctx.save_for_backward(p, labels)
        return total(logits, labels)
    @staticmethod
    def backward(ctx, above):
        p, labels = ctx.saved_tensors; g = p.clone(); g[torch.arange(len(g)), labels] -= 1; return g * above, None
class Disowned(Right):
    @staticmethod
    def forward(ctx, logits, labels):
        return Right.forward(ctx, logits, labels) / len(logits)
class Optional(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, other=None, ignore_index=-100, reduction="mean"):
        assert other is None
        ctx.save_for_backward(logits, labels)
        ctx.ignored, ctx.reduction = ignore_index, reduction
        return cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
    @staticmethod
    def backward(ctx, above):
        logits, labels = ctx.saved_tensors
        kept = labels != ctx.ignored
        g = torch.softmax(logits, 1)
        g[torch.arange(len(g)), labels.clamp(min=0)] -= 1
        g = g * kept[:, None]
        g = g / kept.sum() if ctx.reduction == "mean" else g
        return g * (above[:, None] if ctx.reduction == "none" else above), None, None, None, None
class Places(Right):
    @staticmethod
    def forward(ctx, logits, labels, ignore_index=-100, /, reduction="none"):
        assert ignore_index == -100
        ctx.extra = 2
        return Right.forward(ctx, logits, labels)
    @staticmethod
    def backward(ctx, above):
        return *Right.backward(ctx, above), None, None
class Apart(torch.autograd.Function):
    @staticmethod
    def forward(logits, labels, ignore_index):
        return cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.ignored = inputs[2]
    @staticmethod
    def backward(ctx, above):
        logits, labels = ctx.saved_tensors
        g = torch.softmax(logits, 1)
        g[torch.arange(len(g)), labels.clamp(min=0)] -= 1
        return g * ((labels != ctx.ignored) * above)[:, None], None, None
def detached(logits, labels): return torch.tensor(1.0)
def number(logits, labels): return 1.0
def matrix(logits, labels): return logits * 1.0
"""
JAX = """
import jax, jax.numpy as jnp
def rows(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), labels[:, None], axis=1)[:, 0]
def total(logits, labels): return rows(logits, labels).sum()
def mean(logits, labels): return rows(logits, labels).mean()
def full(logits, labels, label_smoothing=0.0, reduction="mean"):
    log_p = jax.nn.log_softmax(logits, axis=1)
    classes = logits.shape[1]
    y = (1 - label_smoothing) * jax.nn.one_hot(labels, classes, dtype=logits.dtype) + label_smoothing / classes
    loss = -(y * log_p).sum(axis=1)
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]
def number(logits, labels): return 1.0
def matrix(logits, labels): return logits * 1.0
"""


@pytest.fixture
def mine(framework: str, tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(TORCH if framework == "torch" else JAX)
    return f"{framework}:{path}"


@pytest.mark.parametrize("framework", marked("torch", "jax"), indirect=True)
@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("rows", [], 0),
        ("rows", ["reduction=mean"], 0),
        ("rows", ["upstream=0.5,-2"], 0),
        ("total", [], 0),
        ("total", ["reduction=mean"], 1),
        ("mean", ["reduction=mean"], 0),
        ("mean", [], 1),
        ("full", [], 0),
        ("full", ["reduction=mean", "label_smoothing=0.1"], 0),
        ("full", ["reduction=mean", "softcap=3"], 2),
        ("full", ["reduction=mean:count"], 0),
        ("full", ["reduction=mean:rows"], 0),
        ("full", ["label_smoothing=0.1:others"], 2),
        ("total", ["upstream=1,2"], 2),
        ("number", [], 2),
        ("matrix", [], 2),
    ],
)
def test_a_loss_of_ones_own(mine: str, name: str, options: list[str], code: int, program: Program) -> None:
    words = [word for option in options for word in ("--loss", option)]
    ran = program("check", "--case", "plain-3", "--candidate", f"{mine}:{name}", *words)
    assert ran.code == code, ran.out
    if code == 1:
        words = shlex.split(ran.out.split("again: ")[1].splitlines()[0])
        assert program(*words[1:]).code == 1


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options", "code", "said"),
    [
        ("Module", ["label_smoothing=0.1"], 0, ""),
        ("instance", [], 0, ""),
        ("instance", ["label_smoothing=0.1"], 2, "has no parameter label_smoothing"),
        ("Right", [], 0, ""),
        ("Right", ["upstream=-2"], 0, ""),
        ("Optional", ["ignore_index=1"], 0, ""),
        ("Optional", ["ignore_index=1", "reduction=mean"], 0, ""),
        ("Optional", [], 0, ""),
        ("Places", [], 0, ""),
        ("Apart", ["ignore_index=1"], 0, ""),
        ("Apart", [], 2, "ignore_index"),
        ("Disowned", [], 1, "0.5 times it, and its gradient is not"),
        ("Disowned", ["reduction=mean"], 1, "scaled: every component is 2 times what is due"),
        ("detached", [], 2, "returned nothing that depends on the logits"),
        ("full", ["weight=1,2,3", "ignore_index=1"], 0, ""),
        ("nope", [], 2, "has no function 'nope'"),
    ],
)
def test_what_torch_users_write(
    name: str, options: list[str], code: int, said: str, program: Program, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "mine.py"
    path.write_text(TORCH)
    words = [word for option in options for word in ("--loss", option)]
    ran = program("check", "--case", "plain-3", "--candidate", f"torch:{path}:{name}", *words)
    assert ran.code == code, ran.out
    assert said in ran.out + ran.err


@pytest.mark.torch
def test_zeros_that_torch_s_own_checker_accepts(program: Program) -> None:
    pytest.importorskip("torch")
    example = ROOT / "examples" / "zero_backward.py"
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=True)
    assert ran.stdout == "torch.autograd.gradcheck: accepted\n"
    words = ["--case", "saturated-gap-20", "--dtype", "float64", "--candidate", f"torch:{example}:ZeroBackward"]
    checked = program("check", *words)
    assert checked.code == 1
    assert "0 where a nonzero value is due" in checked.out


def test_a_framework_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"--candidate torch needs the package 'torch': pip install 'gradcheck\[torch\]'"
    ):
        candidates.load("torch")
    ran = program("check", "--case", "plain-3", "--candidate", "jax")
    assert ran.code == 2
    assert "pip install 'gradcheck[jax]'" in ran.err


def test_frameworks_are_explained_without_them(program: Program) -> None:
    assert {"torch", "jax"} <= set(candidates.names())
    ran = program("explain", "torch")
    assert "torch (candidates): PyTorch: torch.nn.functional.cross_entropy" in ran.out


ODD = [
    ([[1, 2, 3], [0, 1, -1]], [[0.5, 0.3, 0.2], [1, 0, 0]], ["mask=1,0,1"]),
    ([[1, 2, 3], [0, 1, -1]], [[0.5, 0, 0.5], [1, 0, 0]], ["mask=1,0,1"]),
    ([[1, "-inf", 3]], [1], ["softcap=5"]),
    ([[1, "-inf", 3]], [0], ["softcap=5", "temperature=0.5"]),
    ([[1, 2, 3], [1, 0, 2]], [0, 0], ["ignore_index=0", "reduction=mean", "z_loss=0.01"]),
    ([[1, 2, 3], [1, 0, 2]], [0, 0], ["ignore_index=0", "reduction=mean"]),
]


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
@pytest.mark.parametrize("which", range(len(ODD)))
def test_what_is_composed_around_it_is_no_mistake_of_its_own(framework: str, which: int) -> None:
    logits, labels, options = ODD[which]
    problem = make_problem(np.array(logits, dtype=float), labels, "float64", options)
    if "soft-off-simplex" in THEIRS.get(framework, ()) and which == 0:
        # the mask leaves labels that add up to 0.7, of which it makes ŷ − y
        assert judged(framework, problem).verdict is Verdict.FAIL
    else:
        agrees(framework, problem)


@pytest.mark.torch
def test_a_part_whose_own_mean_is_over_nothing(program: Program, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "w.json"
    path.write_text('{"logits": [[1, 2, 3], [0.5, 0.1, 0.2], [1, 0, 2]], "labels": [0, 1, 2]}')
    words = ["check", str(path), "--loss", "reduction=mean", "--loss", "weight=0,1,1", "--rows", "0:1"]
    ran = program(*words, "--candidate", "torch", "--candidate", "shifted")
    assert "1 passed, 1 skipped" in ran.out
    assert "the mean over these rows alone, which are a part of the whole, divides by 0" in ran.out


@pytest.mark.jax
def test_float32_stays_float32_in_jax(program: Program, tmp_path: Path) -> None:
    """With 64-bit numbers on, a constant would widen the whole loss, and hide that exp overflows."""
    pytest.importorskip("jax")
    path = tmp_path / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\n"
        "def naive(logits, labels):\n"
        "    e = jnp.exp(logits + jnp.zeros(logits.shape[1]))\n"
        "    return -jnp.log((e / e.sum(1, keepdims=True))[jnp.arange(len(labels)), labels])\n"
    )
    held = tmp_path / "x.json"
    held.write_text('{"logits": [[100, 98, 97], [20, 1, 2]], "labels": [1, 0]}')
    words = ["check", str(held), "--candidate", f"jax:{path}:naive"]
    assert program(*words, "--dtype", "float32").code == 1
    assert program(*words, "--dtype", "float64").code == 0
