"""The stable bound where z is another than the logits, against what rounding does in exact arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from gradcheck import candidates, reference, tolerances
from gradcheck.estimates import estimate
from gradcheck.metrics import Comparison, decide
from gradcheck.reference import Settings
from tests.conftest import EVERY_FORMAT, make_problem


@pytest.mark.parametrize(
    "logits", [[3.0, 1.0, 1.0], [7e15, 7e15 - 4, 0.0], [1e17, 1e17, 0.0], [1e290, 0.0], [800.0, 0.0], [4.0]]
)
@pytest.mark.parametrize("option", ["temperature=0.7", "softcap=1e9"])
def test_how_far_the_rounding_of_z_moves_a_probability(logits: list[float], option: str) -> None:
    """The odds of each class become e^±τ times themselves."""
    e = estimate(make_problem([logits], [0], loss=[option]).terms.row(0))
    found = tolerances.moved_error(e, 2.0**-53)
    with mpmath.workdps(60):
        gaps = [
            d if d < 700 else mpmath.mpf(e.largest) - z for d, z in zip(e.delta.tolist(), e.z.tolist(), strict=True)
        ]
        sizes = [mpmath.exp(-gap) for gap in gaps]
        counts = e.row.counts.tolist()
        whole = mpmath.fsum(count * size for count, size in zip(counts, sizes, strict=True))
        for place, (z, size) in enumerate(zip(e.z.tolist(), sizes, strict=True)):
            tau = (6 if e.capped else 2) * mpmath.mpf(2.0**-53) * (abs(z) + e.reach)
            p = size / whole
            odds = size / (whole - size) if whole > size else None
            due = (
                0.0
                if odds is None
                else max(abs(odds * mpmath.exp(way * tau) / (1 + odds * mpmath.exp(way * tau)) - p) for way in (1, -1))
            )
            # beyond 60 digits nothing is left of the others here
            assert float(found[place]) == pytest.approx(float(due), rel=1e-6, abs=1e-50), (place, z)


@np.errstate(all="ignore")
@pytest.mark.parametrize("size", [1e3, 1e15, 1e17, 1e40, 1e130])
@pytest.mark.parametrize("loss", [["temperature=0.5"], ["temperature=0.5", "z_loss=1"], ["softcap=1000"]])
def test_no_logit_is_so_large_that_the_stable_bound_allows_anything(size: float, loss: list[str]) -> None:
    """A bound that grows with the logits' rounding without an end let any number pass."""
    for fmt in (fmt for fmt in EVERY_FORMAT if fmt.max > 4 * size):
        problem = make_problem([[size, 0.0]], [0], fmt, loss)
        exact = reference.compute(problem, fmt, Settings())
        bound = tolerances.stable_bound(exact)
        largest = max(1.0, float(np.abs(exact.values.high).max()) * 2.0 ** float(exact.values.unit_log2.max()))
        assert (np.ldexp(bound, exact.values.unit_log2.astype(int)) < largest * 40 * fmt.unit_roundoff).all(), fmt
        right = candidates.load("shifted").gradient(problem)
        for wrong in (1e70, 1.0):
            lie = right.astype(np.float64) + np.array([[wrong * largest, 0.0]])
            decision = decide(
                Comparison(exact, lie), tolerances.limits_of(tolerances.parse("stable"), exact, flush=False)
            )
            assert (decision.failed, decision.undecided_rows) == (1, [])


@pytest.mark.parametrize(
    ("fmt", "logits", "label", "loss"),
    [
        ("bfloat16", [28.0, 27.5], 0, ["softcap=100", "temperature=0.1", "z_loss=1e-2"]),
        ("float32", [87.40641784667969, 87.93790435791016], 1, ["softcap=333", "temperature=0.1"]),
        ("float16", [5.53515625, 5.5390625, 5.4140625, 5.578125, 5.52734375], 3, ["softcap=20", "temperature=0.01"]),
        ("float16", [12.3203125, 11.140625, -18.609375, -3.896484375, -18.0], 2, ["softcap=333", "z_loss=1e-2"]),
        # a probability that is rounded to a subnormal number, and again when 1/T multiplies it
        ("float32", [1.697622656, -39.26524735, 39.00896835, -8.90968990, 33.79961395], 2, ["temperature=0.8"]),
        ("float16", [0.0, 15.3], 1, ["upstream=1.3"]),
    ],
)
def test_sound_forms_where_z_or_what_is_tiny_is_rounded_again_and_again(
    fmt: str, logits: list[float], label: int, loss: list[str]
) -> None:
    problem = make_problem([logits], [label], fmt, loss)
    exact = reference.compute(problem, problem.format, Settings())
    for name in ("shifted", "compensated", "log_softmax", "wide"):
        gradient = candidates.load(name).gradient(problem)
        limits = tolerances.limits_of(tolerances.parse("stable"), exact, flush=False)
        assert decide(Comparison(exact, gradient), limits).failed == 0, name
