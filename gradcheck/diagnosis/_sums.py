"""A sum over classes that is wrong: all probabilities of a row are off by one factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradcheck import text
from gradcheck.diagnosis._view import Base, Finding, Mask, View, times
from gradcheck.formats import Float64, Format, named

_BLOCKS = tuple(2**n for n in range(3, 13))
_MOST_PADDING = 4096
_FAR = 4.0
"""A log-sum-exp whose rounding tells."""
_FIT = 4.0
"""How often what it can be told to a factor may be from that of a sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Factors:
    """What the probabilities of each row are multiplied by.

    Attributes:
        factor: (N,); least: what it is told to, relative, (N,).
        off: rows where it is not 1.
    """

    factor: Float64
    least: Float64
    off: Mask

    @property
    def first(self) -> int:
        """The row that is furthest off."""
        return int(np.argmax(np.where(self.off, np.abs(self.factor - 1), -1.0)))

    def finding(self, cause: str, what: str, fix: str) -> Finding:
        """What made them, as said of the row that is furthest off."""
        size = times(float(self.factor[self.first]))
        evidence = f"the probabilities of row {{row}} are all {size} what is due{what}"
        return Finding(cause=cause, evidence=evidence, fix=fix, rows=(self.first,))


def known_sum(view: View, base: Base) -> Finding | None:
    """The known mistake that fits the factors of a wrong sum best."""
    return next(iter(known_sums(view, base)), None)


@np.errstate(all="ignore")
def known_sums(view: View, base: Base) -> list[Finding]:
    """All known mistakes that make the factors of a wrong sum, the one that fits best first."""
    told = _told(view, base)
    return [] if told is None else _explained(view, base, told)


@np.errstate(all="ignore")
def wrong_sum(view: View, base: Base) -> Finding | None:
    """One factor for the probabilities of each row, whatever made it."""
    told = _told(view, base)
    if told is None or (told.factor[view.judged] <= 0).any():
        return None
    return told.finding("wrong-sum", "", "look at what the sum over classes holds")


def _told(view: View, base: Base) -> _Factors | None:
    own = base.parts
    if own is None or not view.judged.any():
        return None
    probabilities = own.probabilities(view.candidate)
    error = own.softmax_error(view.format) + 4 * view.format.unit_roundoff * np.abs(own.q / (own.weight * own.p))
    # where it is told most sharply: large probabilities of small label weight
    error = np.where(np.isfinite(probabilities) & np.isfinite(error), error, np.inf)
    weight = np.where(error <= 4 * error.min(axis=1, keepdims=True), own.p, 0.0)
    share = weight.sum(axis=1, keepdims=True)
    factor = np.where(share > 0, (np.where(weight > 0, probabilities, 0.0)).sum(axis=1, keepdims=True) / share, 1.0)
    gradient = own.scale * own.slope * (own.weight * factor * own.p - own.q)
    if not view.is_gradient(gradient, base.bound * np.maximum(1.0, factor)):
        return None
    least = np.where(weight > 0, error, np.inf).min(axis=1, keepdims=True)
    off = (view.judged[:, None] & (np.abs(factor - 1) > least))[:, 0]
    if not off.any():
        return None
    return _Factors(factor=factor[:, 0], least=least[:, 0], off=off)


def _explained(view: View, base: Base, told: _Factors) -> list[Finding]:
    """The sums that make these factors, and rounding where it is as large."""
    judged, own, off, least = view.judged, base.parts, told.off, told.least
    assert own is not None
    found: list[tuple[float, Finding]] = []
    for total, cause, what, fix in _sums(view, base):
        predicted = np.where(np.isfinite(total), own.total[:, 0] / total, 0.0)
        if not np.isfinite(predicted[judged]).all():
            continue
        misfit = float((np.abs(told.factor - predicted) / (least * np.maximum(predicted, 1.0)))[judged].max())
        if misfit <= _FIT and (np.abs(predicted - 1) > least)[off].any():
            found.append((misfit, told.finding(cause, f": {what}", fix)))
    reach = np.abs(own.lse()[:, 0])
    rounding = view.problem.format.unit_roundoff * reach
    allowed = 1.5 * rounding + _FIT * least
    if (np.abs(np.log(told.factor[judged])) <= allowed[judged]).all() and (reach[off] > _FAR).any():
        # rounding spares few of the rows that it can move
        moved = judged & (rounding > _FIT * least)
        usual = 2 * int((off & moved).sum()) > int(moved.sum())
        usual |= bool(rounding[told.first] > 4 * np.abs(np.log(told.factor[told.first])))
        what = f", no more than rounding lse = {text.brief(float(reach[told.first]))} explains"
        one = told.finding("division-free", what, "divide by the sum: exp(l − max)/S, not exp(l − lse)")
        found.append((-1.0 if usual else _FIT, one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _sums(view: View, base: Base) -> Iterator[tuple[Float64, str, str, str]]:
    """Sums that go wrong, relative to exp of the row's maximum: the sum, its cause, what it is, what to do."""
    assert base.parts is not None
    z, fmt = base.parts.z, view.problem.format
    largest = z.max(axis=1, keepdims=True)
    exps = np.exp(z - largest)
    total = exps.sum(axis=1)
    classes = z.shape[1]
    for end, name in ((classes - 1, "last"), (0, "first")):
        yield total - exps[:, end], "wrong-sum", f"the {name} class is left out of the sum", "sum over all classes"
    yield (
        total - view.at_labels(exps),
        "wrong-sum",
        "the true class is left out of the sum",
        "sum over all classes",
    )
    for block in _BLOCKS:
        whole = classes // block * block
        if 0 < whole < classes:
            what = f"the last {classes - whole} classes, past the last whole block of {block}, are left out of the sum"
            yield exps[:, :whole].sum(axis=1), "wrong-sum", what, "sum the tail, too"
    for block in _BLOCKS:
        if block < classes:
            fix = "multiply the sum by exp(old − new) whenever the maximum rises"
            for stale in _stale(z, block):
                yield (
                    stale,
                    "stale-block-max",
                    f"a sum in blocks of {block} is not rescaled when the maximum rises",
                    fix,
                )
    padding = _padding(view, base)
    if padding:
        what = f"{text.count(padding, 'logit')} of 0 more than there are classes in the sum"
        yield total + padding * np.exp(-largest[:, 0]), "wrong-sum", what, "mask the padding with -inf"
    narrow: list[Format] = [fmt, named("bfloat16"), named("float16"), named("float32")]
    for kind in dict.fromkeys(narrow):
        if kind.precision <= named(fmt.accumulator).precision:
            summed = np.add.accumulate(exps.astype(fmt.dtype).astype(kind.dtype), axis=1)[:, -1].astype(np.float64)
            what = f"a sum of {classes:,} terms in one {kind.name}"
            yield summed, "half-precision-sum", what, "sum in float32 or wider, in blocks or pairs"
    if classes > fmt.max:
        yield (
            np.full(len(z), np.inf),
            "half-precision-sum",
            f"{classes:,} is no number of {fmt.name}",
            "count in float32",
        )


def _stale(z: Float64, block: int) -> Iterator[Float64]:
    """Sums in blocks without rescaling: in the last block, or in any."""
    ends = [*range(block, z.shape[1] + 1, block)]
    if not ends or ends[-1] < z.shape[1]:
        ends.append(z.shape[1])
    for always in (False, True):
        largest, total, first = np.full(len(z), -np.inf), np.zeros(len(z)), 0
        for end in ends:
            above = np.maximum(largest, z[:, first:end].max(axis=1))
            skipped = always or end == ends[-1]
            total = total * (1.0 if skipped else np.where(np.isneginf(largest), 0.0, np.exp(largest - above)))
            total = total + np.exp(z[:, first:end] - above[:, None]).sum(axis=1)
            largest, first = above, end
        yield total


def _padding(view: View, base: Base) -> int:
    """How many logits of 0 make the sum that the first wrong row tells; 0 where that is no whole number."""
    own = base.parts
    assert own is not None
    probabilities = own.probabilities(view.candidate)
    told = []
    for row in np.flatnonzero(view.judged)[:8]:
        free = np.where(own.q[row] == 0, own.p[row], 0.0)
        place = int(np.argmax(free))
        factor = probabilities[row, place] / own.p[row, place]
        count = (1 / factor - 1) * own.total[row, 0] * np.exp(own.z[row].max())
        told.append(float(count))
    best = told[int(np.argmin(np.abs(np.array(told) - np.rint(told))))] if told else 0.0
    if not np.isfinite(best) or not 0.5 < best < _MOST_PADDING + 0.5:
        return 0
    return int(np.rint(best))
