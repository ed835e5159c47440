"""PyTorch and JAX as candidates: on the whole catalogue, with losses of the user's own, under every option."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gradcheck import candidates
from gradcheck.candidates._answers import Question
from gradcheck.candidates.frameworks import _losses
from gradcheck.exceptions import MissingExtraError, NotApplicableError
from tests.conftest import Program, make_problem


def test_an_option_that_a_framework_is_not_known_to_take_is_refused() -> None:
    """Left out in silence, it would make a sound framework fail; what changes nothing may be left out."""
    problem = make_problem([[0.0, 1.0]], [1], loss=["weight=1,2", "label_smoothing=0", "reduction=mean"])
    asked = Question.of(problem)
    _losses.refuse_others("x", asked, ("weight",))
    with pytest.raises(NotApplicableError, match=r"x has no weight$"):
        _losses.refuse_others("x", asked, ("mask",))


ROOT = Path(__file__).parent.parent.parent
FRAMEWORKS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("torch", "jax")]
EVERY_DTYPE = [word for name in ("float16", "bfloat16", "float32", "float64") for word in ("--dtype", name)]


@pytest.fixture
def framework(request: pytest.FixtureRequest) -> str:
    """A framework that is installed."""
    pytest.importorskip(request.param, reason=f"the extra '{request.param}' is not installed")
    return str(request.param)


def failing(out: str) -> set[tuple[str, str]]:
    """Case and format of each result that failed; none may have crashed, or been skipped but for an option."""
    results = json.loads(out)["results"]
    assert {result["verdict"] for result in results} <= {"pass", "fail", "skipped"}
    for result in results:
        if result["verdict"] == "skipped":
            assert re.search(r"undefined|has no|does not know", result["reason"]), result["reason"]
    return {(result["case"], result["dtype"]) for result in results if result["verdict"] == "fail"}


IGNORED = {("nonfinite-ignored-row", dtype) for dtype in ("float16", "bfloat16", "float32", "float64")}
HALF_SUM = {("equal-70000", "float16"), ("equal-65536", "float16")}
# torch.logsumexp's backward is exp(l - lse), the form that loses digits in proportion to the logits
DIVISION_FREE = {("z-loss-offset", dtype) for dtype in ("float16", "bfloat16", "float32", "float64")}


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
def test_the_whole_catalogue(framework: str, program: Program) -> None:
    """NaN in ignored rows; 65,536 equal logits in float16; PyTorch: a z-loss at an offset; JAX: subnormal gradients."""
    words = ["stability", "--candidate", framework, *EVERY_DTYPE, "--format", "json"]
    found = failing(program(*words).out)
    assert found >= IGNORED | HALF_SUM
    if framework == "torch":
        assert found == IGNORED | HALF_SUM | DIVISION_FREE
    else:
        assert ("underflow-subnormal-gradient", "float32") in found
        assert failing(program(*words, "--ftz").out) == IGNORED


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
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


OPTIONS = {
    "torch": [
        ["like=torch", "label_smoothing=0.1", "weight=1,2,0.5,3", "ignore_index=1"],
        ["softcap=3", "temperature=0.7", "z_loss=0.01", "reduction=mean"],
        ["mask=1,1,1,0", "upstream=0.5,2,-1"],
        ["upstream=-3", "reduction=mean", "weight=1,2,0.5,3", "z_loss=0.1"],
    ],
    "jax": [
        ["reduction=mean", "ignore_index=1"],
        ["softcap=3", "temperature=0.7", "z_loss=0.01", "reduction=mean"],
        ["mask=1,1,1,0", "upstream=0.5,2,-1"],
        ["reduction=mean:count", "ignore_index=1", "upstream=-3"],
    ],
}


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_options(framework: str, which: int, dtype: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"logits": [[1, 2, -0.5, 0], [0.25, -1, 3, 1], [0, 0.5, 1, -2]], "labels": [0, 1, 2]}')
    options = [word for option in OPTIONS[framework][which] for word in ("--loss", option)]
    for rows in ([], ["--rows", "1:3"]):
        ran = program("check", str(path), "--dtype", dtype, "--candidate", framework, *options, *rows)
        assert ran.code == 0, ran.out
        assert "the loss that comes with it" not in ran.out


HAS_NOT = {
    "torch": {"label_smoothing=0.1:others": "label_smoothing=0.1:others", "reduction=mean:count": "mean:count"},
    "jax": {"label_smoothing=0.1": "has no label_smoothing", "weight=1,2,3": "has no weight"},
}


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
def test_what_it_has_not_is_skipped(framework: str, program: Program) -> None:
    for option, said in HAS_NOT[framework].items():
        ran = program("check", "--case", "plain-3", "--candidate", framework, "--loss", option)
        assert ran.code == 2
        assert "1 skipped" in ran.out
        assert said in ran.out
    ran = program("check", "--case", "plain-3", "--candidate", framework, "--device", "nothing:7")
    assert ran.code == 2
    assert f"{framework} cannot use the device 'nothing:7'" in ran.err


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


@pytest.mark.parametrize("framework", FRAMEWORKS, indirect=True)
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
def test_what_is_composed_around_it_is_no_mistake_of_its_own(
    framework: str, which: int, program: Program, tmp_path: Path
) -> None:
    logits, labels, options = ODD[which]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"logits": logits, "labels": labels}))
    words = [word for option in options for word in ("--loss", option)]
    ran = program("check", str(path), "--dtype", "float64", "--candidate", framework, *words)
    assert ran.code == 0, ran.out
    assert "the loss that comes with it" not in ran.out


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
