"""What a diagnosis looks at: a wrong gradient, the exact one, and gradients of other questions, in float64."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradcheck import text
from gradcheck.formats import Array, Float64, Format
from gradcheck.problem import Problem, RowStatus, Terms
from gradcheck.tolerances import summing_roundoff

Mask = NDArray[np.bool_]

_NEAR = 0.01
_SLACK = 2.0
"""How often its bound a residual may be: the bounds of other questions are estimates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What s·f'·[(W + 2ζ·lse)·p − q] is made from, in float64.

    Attributes:
        z: transformed logits, (N, k), -inf where masked; slope: f', (N, k).
        q: label weights, (N, k); weight: W + 2ζ·lse, (N, 1); scale: s, (N, 1); 0 in rows that are not judged.
    """

    z: Float64
    slope: Float64
    q: Float64
    weight: Float64
    scale: Float64

    @cached_property
    def gap(self) -> Float64:
        """max z − z, (N, k)."""
        return np.asarray(self.z.max(axis=1, keepdims=True) - self.z)

    @cached_property
    def total(self) -> Float64:
        """S relative to exp(max z), (N, 1)."""
        return np.asarray(np.exp(-self.gap).sum(axis=1, keepdims=True))

    @cached_property
    def p(self) -> Float64:
        """Probabilities, (N, k)."""
        return np.asarray(np.exp(-self.gap) / self.total)

    @cached_property
    def gradient(self) -> Float64:
        """The closed form, (N, k)."""
        return np.asarray(self._judged(self.scale * self.slope * (self.weight * self.p - self.q)))

    def _judged(self, values: Float64) -> Float64:
        """Values, but 0 in rows that are not judged, whose logits may be anything."""
        return np.where(self.scale == 0, 0.0, values)

    @cached_property
    def unit(self) -> Float64:
        """s·f', (N, k), 1 in rows that are not judged: what a gradient is divided by."""
        return np.where(self.scale == 0, 1.0, self.scale * self.slope)

    def probabilities(self, gradient: Float64) -> Float64:
        """What a gradient takes the probabilities for, (N, k)."""
        return np.asarray((gradient / self.unit + self.q) / self.weight)

    def lse(self) -> Float64:
        """log Σ exp z, (N, 1)."""
        return np.asarray(self.z.max(axis=1, keepdims=True) + np.log(self.total))

    def softmax_error(self, fmt: Format) -> Float64:
        """The relative error that a sound algorithm makes of p, (N, k)."""
        u, sums = fmt.unit_roundoff, 4 * math.sqrt(self.z.shape[1]) * summing_roundoff(fmt)
        size = np.where(np.isfinite(self.z), np.abs(self.z), 0.0)
        moved = np.zeros_like(size)
        if (self.slope != 1).any():
            moved = np.expm1(np.minimum(2 * u * (size + size.max(axis=1, keepdims=True)), 600.0))
        gap = np.where(np.isfinite(self.gap), self.gap, 0.0)
        return np.asarray(u * (3 * gap + 2 * np.log(self.total) + 8) + moved + sums)

    def slope_error(self, fmt: Format) -> float:
        """What a sound algorithm may lose of 1 − tanh² under a cap."""
        return 4 * fmt.unit_roundoff if (self.slope != self.slope.max()).any() else 0.0

    def bound(self, fmt: Format) -> Float64:
        """What a sound algorithm may err by, about, (N, k)."""
        u, size = fmt.unit_roundoff, np.abs(self.scale)
        heavy = np.abs(self.q).sum(axis=1, keepdims=True) + np.abs(self.weight - self.q.sum(axis=1, keepdims=True))
        inner = self.p * heavy * self.softmax_error(fmt) + 4 * u * np.abs(self.q)
        found = size * np.abs(self.slope) * inner + 2 * u * np.abs(self.gradient)
        found = found + size * self.slope_error(fmt) * np.abs(self.weight * self.p - self.q)
        return self._judged(found + fmt.smallest_subnormal * np.maximum(1.0, size * np.maximum(heavy, 1.0)))


@np.errstate(all="ignore")
def parts(problem: Problem, terms: Terms | None = None) -> Parts:
    """The parts of a problem's gradient, or of that with other terms."""
    terms = terms or problem.terms
    logits = terms.logits.astype(np.float64)
    temperature = float(terms.temperature)
    if terms.softcap is None:
        z, slope = logits / temperature, np.full(logits.shape, 1 / temperature)
    else:
        cap = float(terms.softcap)
        z = np.where(np.isneginf(logits), logits, cap * np.tanh(logits / cap) / temperature)
        falling = np.exp(-2 * np.abs(logits / cap))
        slope = 4 * falling / (1 + falling) ** 2 / temperature
    q = terms.label_weights()
    weight = q.sum(axis=1, keepdims=True)
    scale = np.array([float(terms.scale(n)) for n in range(terms.rows)])[:, None]
    scale = np.where((problem.status == RowStatus.JUDGED)[:, None], scale, 0.0)
    found = Parts(z=z, slope=slope, q=q, weight=weight, scale=scale)
    if terms.zeta:
        found = dataclasses.replace(found, weight=weight + 2 * float(terms.zeta) * found.lse())
    return found


def times(factor: float) -> str:
    """A factor in words; near 1 by its distance from it."""
    apart = factor - 1
    if apart and abs(apart) < _NEAR:
        return f"1 {'+' if apart > 0 else '-'} {text.brief(abs(apart))} times"
    return f"{text.brief(factor)} times"


def many(where: Mask, thing: str) -> str:
    """How many there are, in words."""
    return text.count(int(where.sum()), thing)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What explains a gradient, or a part of what does.

    Attributes:
        cause: one of `CAUSES`.
        evidence: in numbers, one sentence without its period; fix: what to do, likewise.
        option: the words that would make the check agree; empty where none would.
        rows: of which the evidence speaks as {row}, in order, for whoever knows their numbers in the input.
    """

    cause: str
    evidence: str
    fix: str
    option: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A gradient that the candidate may be, or may have been before something else happened to it.

    Attributes:
        finding: what is wrong with the question that it answers; None for the problem's own.
        gradient, bound: (N, k), 0 in rows that are not judged.
        parts: what it is made from; None where it is not of this form.
    """

    finding: Finding | None
    gradient: Float64
    bound: Float64
    parts: Parts | None = None

    @property
    def size(self) -> Float64:
        """How large its components are, (N, k), 0 where they are not finite."""
        return np.where(np.isfinite(self.gradient), np.abs(self.gradient), 0.0)


def resolution(size: Float64, bound: Float64) -> Float64:
    """To how much, relative, a component tells a factor, (N, k)."""
    return np.where(size > 0, bound / size, np.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A wrong gradient beside the exact one.

    Attributes:
        candidate: (N, k) in float64; failed: components past the tolerance's limit, (N, k).
        format: the one that the gradient is judged in.
        own: the exact gradient.
        summed: whether a mean is taken of what the candidate returns, so that no option would make it agree.
    """

    problem: Problem
    format: Format
    candidate: Float64
    failed: Mask
    own: Base
    summed: bool = False

    @cached_property
    def judged(self) -> Mask:
        """Rows that have a gradient, (N,)."""
        return np.asarray(self.problem.status == RowStatus.JUDGED)

    @cached_property
    def ignored(self) -> Mask:
        """Rows whose gradient is exactly 0, (N,)."""
        return np.asarray(self.problem.status == RowStatus.IGNORED)

    @cached_property
    def parts(self) -> Parts:
        """The parts of the exact gradient."""
        assert self.own.parts is not None
        return self.own.parts

    @np.errstate(all="ignore")
    def near(self, gradient: Float64, bound: Float64) -> Mask:
        """Where the candidate is this gradient, (N, k): NaN where it is NaN, and anything in undefined rows."""
        # a wide bound explains much, but nothing that is 0
        close = np.abs(self.candidate - gradient) <= np.where(self.candidate == 0, bound, _SLACK * bound)
        close |= np.isnan(gradient) & ~np.isfinite(self.candidate)
        close |= ~np.isfinite(gradient) & (self.candidate == gradient)
        return np.asarray(close | ~(self.judged | self.ignored)[:, None])

    def is_gradient(self, gradient: Float64, bound: Float64) -> bool:
        """Whether the candidate is this gradient everywhere."""
        return bool(self.near(gradient, bound).all())

    def told(self, base: Base) -> bool:
        """Whether most of what is wrong is that other gradient, and not merely within its wider bound."""
        wrong = ~self.near(self.own.gradient, self.own.bound)
        moved = ~(np.abs(base.gradient - self.own.gradient) <= _SLACK * base.bound)
        return 2 * int((wrong & moved).sum()) > int(wrong.sum())

    def base(self, finding: Finding, found: Parts, *, lost: float = 0.0) -> Base:
        """The gradient of another question.

        Args:
            lost: what exp z is rounded to where it is not shifted any more; all of it leaves 0/0.
        """
        gradient, bound = found.gradient, found.bound(self.format)
        if lost:
            total = np.exp(found.lse())
            bound = bound + np.abs(found.scale * found.slope * found.weight) * (4 * lost / np.maximum(total, lost / 8))
            gradient = np.where((total < lost / 2) & (found.scale != 0), np.nan, gradient)
        return Base(finding=finding, gradient=gradient, bound=bound, parts=found)

    def labels(self) -> Array:
        """The class that carries the most label weight in each row, (N,)."""
        return np.asarray(np.abs(self.parts.q).argmax(axis=1))

    def at_labels(self, array: Array) -> Array:
        """What an array, (N, k), holds there, (N,)."""
        return np.asarray(array[np.arange(len(array)), self.labels()])
