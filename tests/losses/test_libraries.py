"""Each library's conventions against its own runs, ONNX's node tests, and values that other projects publish."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

from gradcheck import candidates, files, losses, reference
from gradcheck.checking import How, check
from gradcheck.exact import to_fraction
from gradcheck.exceptions import InputError
from gradcheck.formats import Array, named
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference import Reference, Settings
from gradcheck.results import Judged, Verdict
from gradcheck.tolerances import parse as tolerance
from tests.conftest import DATA, arrays, make_problem
from tests.losses.test_losses import loss_of

RUNS = json.loads((DATA / "losses" / "library_losses.json").read_text())
PUBLISHED = {one["id"]: one for one in json.loads((DATA / "losses" / "published_losses.json").read_text())}


def run_name(run: dict[str, Any]) -> str:
    return " ".join([run["library"], run["problem"], *run["loss"]])


@pytest.mark.parametrize("run", RUNS["runs"], ids=run_name)
def test_like_a_library_is_what_the_library_does(run: dict[str, Any]) -> None:
    given = RUNS["problems"][run["problem"]]
    options = [f"like={run['library']}", *run["loss"]]
    options += ["weight=" + ",".join(map(str, given["weight"]))] if "weight" in given else []
    narrow = run["library"] == "liger"  # its kernel computes in float32
    gradient = np.array(run["gradient"], dtype=np.float64).astype(np.float32 if narrow else np.float64)
    problem = make_problem(given["logits"], given["labels"], "float32" if narrow else "float64", options)
    every = [candidates.given(run["library"], gradient), *map(candidates.load, ("shifted", "compensated"))]
    found, *own = check(problem, every, How(tolerance=tolerance("stable"), settings=Settings()), case="x")
    if np.isnan(gradient).all():
        # Σw = 0 under a mean
        assert (problem.status == RowStatus.UNDEFINED).all()
        return
    assert [result.verdict for result in (found, *own)] == [Verdict.PASS] * 3
    value = float(run["value"])
    assert math.isclose(loss_of(found), value, rel_tol=1e-6 if narrow else 1e-14) or (
        math.isnan(value) and math.isnan(loss_of(found))
    )


def test_every_library_has_runs() -> None:
    assert {run["library"] for run in RUNS["runs"]} == {"torch", "keras", "optax", "liger"}


# --- ONNX ------------------------------------------------------------------------------------------------------------


@cache
def onnx() -> dict[str, Array]:
    return arrays(DATA / "losses" / "onnx_node_tests.npz")


def onnx_tests(op: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(str(onnx()["index_json"])) if one["op"] == op]


def onnx_problem(test: dict[str, Any]) -> Problem:
    """A node test under like=onnx, its axes laid out as rows."""
    name, held, attributes = test.get("same_inputs_as", test["name"]), onnx(), test["attributes"]
    logits = held.get(f"{name}__x", held.get(f"{name}__log_prob"))
    assert logits is not None
    layout = files.Layout.of(logits.shape, 1)
    values: dict[str, object] = {"like": "onnx", "reduction": attributes["reduction"]}
    if "ignore_index" in attributes:
        values["ignore_index"] = attributes["ignore_index"]
    if f"{name}__weight" in held:
        values["weight"] = held[f"{name}__weight"]
    rows, labels = (layout.arrange(array) for array in (logits, held[f"{name}__labels"]))
    assert isinstance(rows, np.ndarray)
    assert isinstance(labels, np.ndarray)
    return Problem(logits=rows.copy(), labels=labels.copy(), format=named("float32"), loss=losses.given(values))


def rounded(exact: Reference) -> Array:
    """The reference as float64, row by row."""
    shape = exact.values.high.shape
    return np.array([[float(to_fraction(exact.exact(n, i))) for i in range(shape[1])] for n in range(shape[0])])


def alike(tests: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Tests of the same problem, which differ in what they ask for beside the loss, together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for test in tests:
        key = json.dumps([test.get("same_inputs_as", test["name"]), test["attributes"]], sort_keys=True)
        found.setdefault(key, []).append(test)
    return list(found.values())


@pytest.mark.parametrize("tests", alike(onnx_tests("SoftmaxCrossEntropyLoss")), ids=lambda tests: tests[0]["name"])
def test_onnx_softmax_cross_entropy(tests: list[dict[str, Any]]) -> None:
    problem, held = onnx_problem(tests[0]), onnx()
    exact = reference.compute(problem, named("float64"), Settings(engine="flint", target_bits=60))
    rows = [Fraction(0) if row is None else to_fraction(row.loss) for row in exact.rows]
    for name in (test["name"] for test in tests):
        expected = np.atleast_1d(held[f"{name}__loss"]).ravel()
        loss = np.array([float(row) for row in rows] if len(expected) > 1 else [float(sum(rows))])
        np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_max_ulp(loss, np.atleast_1d(held[f"{name}__loss_ref_f64"]).ravel(), 1)
    gradient = held[f"{tests[0].get('same_inputs_as', tests[0]['name'])}__grad_ref_f64"]
    known = files.Layout.of(gradient.shape, 1).arrange(gradient)
    assert isinstance(known, np.ndarray)
    np.testing.assert_array_equal(rounded(exact), known)


@pytest.mark.parametrize("test", onnx_tests("NegativeLogLikelihoodLoss"), ids=lambda test: test["name"])
def test_onnx_negative_log_likelihood(test: dict[str, Any]) -> None:
    """Its inputs are no log-probabilities, so that the loss is −s·Σ q·z: what cross-entropy has beside s·W·lse."""
    problem = onnx_problem(test)
    rows = []
    for row in problem.distinct:
        if row is None:
            rows.append(0.0)
            continue
        pairs = zip(row.q, row.counts.tolist(), row.logits.tolist(), strict=True)
        rows.append(float(-row.scale * sum(q * n * Fraction(logit) for q, n, logit in pairs if q)))
    expected = np.atleast_1d(onnx()[f"{test['name']}__loss"]).ravel()
    found = np.array(rows if len(expected) > 1 else [math.fsum(rows)])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


# --- what other projects publish -------------------------------------------------------------------------------------

UNCHECKED = {
    "tf-sparse-invalid-label": "labels out of range",
    "ort-label-too-large": "a label out of range",
    "pytorch-nll-empty": "no rows",
}
OTHER_CONVENTION = "tf-labels-broadcast"  # softmax − labels where labels do not sum to 1, which is no derivative


def published_problem(one: dict[str, Any]) -> Problem:
    options = [f"{key}={one[key]}" for key in ("reduction", "ignore_index", "label_smoothing") if key in one]
    options += ["weight=" + ",".join(map(str, one["weight"]))] if "weight" in one else []
    logits = [[float(x) for x in row] for row in one.get("logits", one.get("log_probs", []))]
    return make_problem(logits, one["labels"], one["dtype"], options)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in UNCHECKED])
def test_published_values(name: str) -> None:
    one = PUBLISHED[name]
    problem = published_problem(one)
    exact = reference.compute(problem, named("float64"), Settings(target_bits=60))
    rows = [0.0 if row is None else float(to_fraction(row.loss)) if row.loss != math.inf else math.inf
            for row in exact.rows]  # fmt: skip
    (result,) = check(
        problem, [candidates.load("shifted")], How(tolerance=tolerance("stable"), settings=Settings()), case=name
    )
    summed = loss_of(result) if isinstance(result.outcome, Judged) else problem.terms.empty_loss
    loss = np.array(rows) if one.get("reduction") == "none" else np.array(summed)
    if "reference" in one:
        np.testing.assert_array_max_ulp(loss, np.array(one["reference"]["loss"], dtype=np.float64), 1)
        np.testing.assert_array_equal(rounded(exact), np.array(one["reference"]["grad"]))
    expected = one.get("expected", {})
    near = {"rtol": one.get("rtol", 1e-4), "atol": one.get("atol", 1e-4)}
    if "loss" in expected and one["op"] == "cross_entropy":
        np.testing.assert_allclose(loss, np.array(expected["loss"], dtype=np.float64), **near)
    if "grad" in expected and name != OTHER_CONVENTION:
        np.testing.assert_allclose(rounded(exact), np.array(expected["grad"]), **near)
    if one["op"] == "nll_loss":  # where the mean, or the sum, is over nothing
        assert str(summed) == str(float(expected["loss"]))


def test_what_tensorflow_returns_off_the_simplex_is_caught() -> None:
    one = PUBLISHED[OTHER_CONVENTION]
    theirs = np.array(one["expected"]["grad"]).astype(np.float16)
    problem = published_problem(one)
    (result,) = check(
        problem,
        [candidates.given("theirs", theirs)],
        How(tolerance=tolerance("abs:0.1"), settings=Settings()),
        case="x",
    )
    assert result.verdict is Verdict.FAIL


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_is_no_problem(name: str) -> None:
    one = PUBLISHED[name]
    if name == "pytorch-nll-empty":
        with pytest.raises(InputError, match="neither of them 0"):
            make_problem(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    else:
        with pytest.raises(InputError, match=r"label \d+ of row \d is outside"):
            published_problem(one)
