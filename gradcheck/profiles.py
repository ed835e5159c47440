"""The error profile of a gradient: where along a row its errors are, in so few points that a page can hold many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcheck import closed_form
from gradcheck.formats import Float64, named
from gradcheck.metrics import Comparison
from gradcheck.problem import Problem

_SLICES = 24
_TALLEST = 60
"""The power of two past which errors are counted together."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The worst component of a slice.

    Attributes:
        gap: how far its logit is below the row's maximum, after the loss's transforms.
        ulp: its error; inf where it is not finite.
        bound_ulp: what a sound algorithm may err by there.
        row, cls: where it stands.
        true: whether it is its row's true class, which has a slice of its own.
    """

    gap: float
    ulp: float
    bound_ulp: float
    row: int
    cls: int
    true: bool


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Errors by the distance below the row's maximum, and by size.

    Attributes:
        points: by true class or not, then by distance.
        histogram: how many components err by at most 2^n ulp, and by more than 2^(n − 1), as (n, count), n rising
            from -1, that is up to half an ulp; those that are not finite last, as (None, count).
    """

    points: tuple[Point, ...] = ()
    histogram: tuple[tuple[int | None, int], ...] = ()


@np.errstate(all="ignore")
def profile(problem: Problem, comparison: Comparison, bound: Float64) -> Profile:
    """The profile of a gradient.

    Args:
        bound: what a sound algorithm needs, in units, (N, k).
    """
    ulps, judged = comparison.ulps, comparison.judged
    if not judged.any():
        return Profile()
    z = closed_form.parts(problem, named("float64")).z
    gaps = np.asarray(z.max(axis=1, keepdims=True) - z)
    weights = np.abs(problem.terms.label_weights())
    true = np.zeros(ulps.shape, bool)
    true[np.arange(len(true)), weights.argmax(axis=1)] = weights.max(axis=1) > 0
    bounds = comparison.values.in_ulps(bound)
    seen = judged & np.isfinite(gaps)
    widest = float(gaps[seen].max()) if seen.any() else 0.0
    part = np.where(seen, gaps, 0.0) / (widest or 1.0)  # a subnormal distance has no reciprocal
    slices = np.minimum(part * _SLICES, _SLICES - 1).astype(int)
    slices = np.where(true, slices + _SLICES, slices)
    worst = np.full(2 * _SLICES, -1.0)
    np.maximum.at(worst, slices[seen], ulps[seen])
    places = np.flatnonzero((seen & (ulps == worst[slices])).ravel())
    _, first = np.unique(slices.ravel()[places], return_index=True)
    points = [
        Point(
            gap=float(gaps[row, cls]),
            ulp=float(ulps[row, cls]),
            bound_ulp=float(bounds[row, cls]),
            row=row,
            cls=cls,
            true=bool(true[row, cls]),
        )
        for row, cls in (divmod(int(place), ulps.shape[1]) for place in places[first])
    ]
    return Profile(points=tuple(points), histogram=_histogram(ulps[judged]))


def merged(parts: Sequence[Profile]) -> Profile:
    """The profile of parts together, in slices of their widest distance.

    A part has told the worst of its own slices alone: one that lies across two of the whole's fills only one of them.
    """
    widest = max((point.gap for part in parts for point in part.points), default=0.0)
    worst: dict[tuple[bool, int], Point] = {}
    for point in (point for part in parts for point in part.points):
        place = (point.true, min(int(point.gap / (widest or 1.0) * _SLICES), _SLICES - 1))
        if place not in worst or point.ulp > worst[place].ulp:
            worst[place] = point
    counts: Counter[int | None] = Counter()
    for part in parts:
        counts.update(dict(part.histogram))
    finite = sorted((power, n) for power, n in counts.items() if power is not None)
    beyond = [(None, counts[None])] if None in counts else []
    return Profile(points=tuple(worst[place] for place in sorted(worst)), histogram=(*finite, *beyond))


def _histogram(ulps: Float64) -> tuple[tuple[int | None, int], ...]:
    finite = ulps[np.isfinite(ulps)]
    powers = np.ceil(np.log2(np.clip(finite, 0.5, 2.0**_TALLEST))).astype(int)
    found: list[tuple[int | None, int]] = [
        (int(n), int(count)) for n, count in zip(*np.unique(powers, return_counts=True), strict=True)
    ]
    return (*found, (None, ulps.size - finite.size)) if finite.size < ulps.size else tuple(found)
