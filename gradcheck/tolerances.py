"""Tolerances: what a candidate's error may be. Each carries its unit; none grows with the size of the array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradcheck.estimates import Estimates, Known, in_units
from gradcheck.exact import nonnegative
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import FORMATS, Float64, Format
from gradcheck.reference.values import ExactGradient, Values, following


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """What a tolerance allows each component, in the reference's units, (N, k).

    A limit that depends on the exact value is as uncertain as that value.

    Attributes:
        certain: an error up to here passes, whatever the exact value is.
        possible: an error past this fails, whatever the exact value is.
    """

    certain: Float64
    possible: Float64


class Tolerance(Protocol):
    """A rule that turns errors into a verdict."""

    @property
    def metric(self) -> str:
        """The metric that it judges by."""
        ...

    def limits(self, values: Values, bound: Float64) -> Limits:
        """What it allows; `bound` is what a sound algorithm needs, in units (`stable_bound`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stable:
    """`stable`: as good as a sound algorithm in this format can be. See `stable_bound`."""

    metric: str = "bound"

    def limits(self, values: Values, bound: Float64) -> Limits:
        """The bound B of every component."""
        return Limits(certain=bound, possible=bound)

    def __str__(self) -> str:
        return "stable"


@dataclass(frozen=True, kw_only=True)
class Ulp:
    """`ulp:N`: at most N units in the last place of the exact value."""

    most: float
    metric: str = "ulp"

    @np.errstate(all="ignore")
    def limits(self, values: Values, bound: Float64) -> Limits:
        """N everywhere."""
        least, most = (
            np.ldexp(self.most, (log2 - values.unit_log2).astype(np.int32))
            for log2 in (values.ulp_log2, values.ulp_most_log2)
        )
        return Limits(certain=least, possible=most)

    def __str__(self) -> str:
        return f"ulp:{_shortest(self.most)}"


@dataclass(frozen=True, kw_only=True)
class Relative:
    """`rel:X`: at most X·|g|, component by component."""

    most: float
    metric: str = "rel"

    def limits(self, values: Values, bound: Float64) -> Limits:
        """X·|g|."""
        return AllClose(rtol=self.most, atol=0.0).limits(values, bound)

    def __str__(self) -> str:
        return f"rel:{_shortest(self.most)}"


@dataclass(frozen=True, kw_only=True)
class Absolute:
    """`abs:X`: at most X."""

    most: float
    metric: str = "abs"

    def limits(self, values: Values, bound: Float64) -> Limits:
        """X everywhere."""
        return AllClose(rtol=0.0, atol=self.most).limits(values, bound)

    def __str__(self) -> str:
        return f"abs:{_shortest(self.most)}"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """`norm:X`: a row's largest error is at most X times its largest exact component."""

    most: float
    metric: str = "norm"

    @np.errstate(all="ignore")
    def limits(self, values: Values, bound: Float64) -> Limits:
        """X·max|g| of the row."""
        top = values.unit_log2.max(axis=1, keepdims=True)
        shift = (values.unit_log2 - top).astype(np.int32)

        def limit(size: Float64) -> Float64:
            largest = np.ldexp(size, shift).max(axis=1, keepdims=True)
            return np.asarray(np.ldexp(self.most * largest, -shift))

        least, most = _sizes(values)
        return Limits(certain=limit(least), possible=limit(most))

    def __str__(self) -> str:
        return f"norm:{_shortest(self.most)}"


@dataclass(frozen=True, kw_only=True)
class AllClose:
    """`allclose:RTOL,ATOL`: NumPy's rule, |c − g| <= ATOL + RTOL·|g|."""

    rtol: float
    atol: float
    metric: str = "allclose"

    @np.errstate(all="ignore")
    def limits(self, values: Values, bound: Float64) -> Limits:
        """ATOL + RTOL·|g|."""
        floor = in_units(np.full(values.high.shape, self.atol), values.unit_log2)
        least, most = _sizes(values)
        return Limits(certain=floor + self.rtol * least, possible=floor + self.rtol * most)

    def __str__(self) -> str:
        return f"allclose:{_shortest(self.rtol)},{_shortest(self.atol)}"


@dataclass(frozen=True, kw_only=True)
class Torch:
    """`torch`: the defaults of torch.testing.assert_close for the gradient's format."""

    metric: str = "allclose"

    def limits(self, values: Values, bound: Float64) -> Limits:
        """`allclose` with the format's own pair."""
        rtol, atol = values.format.assert_close
        return AllClose(rtol=rtol, atol=atol).limits(values, bound)

    def __str__(self) -> str:
        return "torch"


NAMES = {
    "stable": "every |c − g| is within the bound that a backward-stable algorithm meets (the default)",
    "ulp:N": "every error is at most N units in the last place of the exact value",
    "rel:X": "every |c − g| <= X·|g|",
    "abs:X": "every |c − g| <= X",
    "norm:X": "in every row max|c − g| <= X·max|g|",
    "allclose:RTOL,ATOL": "every |c − g| <= ATOL + RTOL·|g|, NumPy's rule",
    "torch": "torch.testing.assert_close with its defaults for the format (rtol, atol): "
    + ", ".join(f"{row.name} {row.assert_close[0]:g}, {row.assert_close[1]:g}" for row in FORMATS.values()),
}
"""The tolerances, as a user writes them."""


def parse(text: str) -> Tolerance:
    """A tolerance from its text.

    >>> parse("ulp:4")
    Ulp(most=4.0, metric='ulp')
    >>> print(parse("allclose:1e-5,1e-8"))
    allclose:1e-05,1e-08
    >>> parse("ulp")
    Traceback (most recent call last):
        ...
    gradcheck.exceptions.UsageError: tolerance 'ulp' needs a finite number >= 0 after the ...

    Raises:
        UsageError: for an unknown name, or a number that is missing, negative or not finite.
    """
    name, _, value = text.partition(":")
    match name:
        case "stable" | "torch" if ":" in text:
            raise UsageError(f"tolerance '{name}' takes no number")
        case "stable":
            return Stable()
        case "torch":
            return Torch()
        case "ulp":
            return Ulp(most=_number(text, value))
        case "rel":
            return Relative(most=_number(text, value))
        case "abs":
            return Absolute(most=_number(text, value))
        case "norm":
            return Norm(most=_number(text, value))
        case "allclose":
            rtol, comma, atol = value.partition(",")
            if not comma:
                raise UsageError(f"tolerance '{text}' should read allclose:RTOL,ATOL")
            return AllClose(rtol=_number(text, rtol), atol=_number(text, atol))
        case _:
            raise UnknownNameError("tolerance", text, NAMES)


def _number(text: str, value: str) -> float:
    try:
        return nonnegative(value)
    except ValueError:
        raise UsageError(
            f"tolerance '{text}' needs a finite number >= 0 after the colon, such as ulp:4 or rel:1e-6"
        ) from None


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")


def _sizes(values: Values) -> tuple[Float64, Float64]:
    """The least and the most that |g| may be, in units."""
    return np.maximum(values.size - values.uncertainty, 0.0), values.size + values.uncertainty


def stable_bound(exact: ExactGradient, *, flush: bool = False) -> Float64:
    """B of every component in the exact values' units, (N, k); 0 in ignored and undefined rows.

        B = s·φ·{ (p + m)·[ A·( u·(3δ + 2·ln S₀ + 8) + 4·√k·u_acc ) + R·n·u_acc ] + A·m + 4u·|q| }
            + [softcap only] (s/T)·4u·(|G| + 16u·(A·p + |q|))  +  2u·|g|  +  λ·Λ

    where Λ is 1, but max(1, s·max(A, 1)·max φ + ½) where that product is not 1; n labels carry weight, and all but the
    largest of them R = Σ|q| − max|q|; m is `moved_error`.

    Rounding of the shift and of log p after Blanchard, Higham & Higham, IMA J. Numer. Anal. 41(4), 2021 (here
    componentwise); sums after Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019. docs/numerics.md derives it.

    Args:
        flush: whether flushed subnormals are accepted: λ is then the smallest normal value.

    Returns:
        A read-only array: it is kept for the next candidate.
    """
    return _spread_bound(exact, flush)


_ROUGH = 2.0**-14
"""What float64 may make of a limit, where it knows the exact value no better than that."""


def limits_of(tolerance: Tolerance, exact: ExactGradient, *, flush: bool) -> Limits:
    """What a tolerance allows each component of an exact gradient."""
    limits = tolerance.limits(exact.values, stable_bound(exact, flush=flush))
    if exact.at_once is None:
        return limits
    return Limits(certain=limits.certain * (1 - _ROUGH), possible=limits.possible * (1 + _ROUGH))


@following
@np.errstate(all="ignore")
def _spread_bound(exact: ExactGradient, flush: bool) -> Float64:
    bound = exact.spread(lambda e, values: _bound(e, values, flush))
    bound.flags.writeable = False
    return bound


def _bound(e: Known, values: Values, flush: bool) -> Float64:
    fmt, unit_log2 = values.format, values.unit_log2
    u, u_sum = fmt.unit_roundoff, summing_roundoff(fmt)
    sums = e.weight * 4 * math.sqrt(e.classes) * u_sum + label_sum_error(e, fmt)
    # in place: dumps go through here
    bound = softmax_roundings(e)
    bound *= e.weight * u
    bound += sums
    factor = e.scale * e.slope
    if np.any(factor != 1):
        bound *= factor
    p = e.p_in_units(unit_log2)
    if e.moved:
        moved = in_units(moved_error(e, u), unit_log2)
        bound *= p + moved
        bound += factor * e.weight * moved
    else:
        bound *= p
    bound += factor * 4 * u * in_units(np.abs(e.q), unit_log2)
    if e.capped:
        # a slope that is off meets a G that is off, and may be 0; without that float64's own noise would be the limit
        inner = in_units(np.abs(e.inner), unit_log2)
        inner = inner + 16 * u * (e.weight * e.p_in_units(unit_log2) + in_units(np.abs(e.q), unit_log2))
        bound += e.scale / e.temperature * 4 * u * inner
    bound += 2 * u * values.size
    bound += least(values, flush=flush) * grown(e.scale * np.maximum(e.weight, 1.0) * e.steepest)
    # so that an error of exactly λ, or of any other round limit, is no tie
    bound *= 1 + 2.0**-20
    return bound


def grown(factor: Float64 | float) -> Float64:
    """Λ: how many λ what lies below the normal range before a factor multiplies it is off by after it.

    It has been rounded to λ, and where the factor is not 1 is rounded again.
    """
    return np.where(factor == 1, 1.0, np.maximum(1.0, np.asarray(factor) + 0.5))


def plain_bound(fmt: Format, classes: int, log_sum: Float64) -> tuple[Float64, float]:
    """B where it is simplest, a + b·δ in B = (a + b·δ)·|g| + λ·Λ: at classes without a label.

    It is that of z = l, ζ = 0 and a single label of weight A; see `stable_bound`.
    """
    u, slack = fmt.unit_roundoff, 1 + 2.0**-20
    return slack * (u * (2 * log_sum + 10) + 4 * math.sqrt(classes) * summing_roundoff(fmt)), slack * 3 * u


def least(values: Values, *, flush: bool) -> Float64:
    """λ in units."""
    return in_units(np.full(values.unit_log2.shape, values.format.least(flush=flush)), values.unit_log2)


def summing_roundoff(fmt: Format) -> float:
    """u_acc: sums over classes are made in float32 at least."""
    return min(fmt.unit_roundoff, 2.0**-24)


def softmax_roundings(e: Known) -> Float64:
    """How many roundings u a probability may suffer but for its sum, and for that of z: 3δ + 2·ln S₀ + 8."""
    return np.asarray(3 * e.delta + (2 * e.log_sum + 8))


_FAR = 700.0
"""A distance to the largest logit from which on p is nothing in float64, or nearly so."""


@np.errstate(all="ignore")
def moved_error(e: Known, u: float) -> Float64:
    """m: how far the rounding of z, where z is another than the logits, may move a probability.

    With τ = 2u(|z| + max|z|), under a softcap three times that, its odds p/(1 − p) become e^(±τ) times themselves, so
    m = p·(1 − p)·τ where τ is small, and never more than max(p, 1 − p).
    """
    # T is rounded and divides; under a cap c is rounded twice, divides and multiplies, and tanh is rounded, too
    tau = (6 if e.capped else 2) * u * (np.abs(np.where(np.isfinite(e.z), e.z, 0.0)) + e.reach)
    # δ is exact, and where there are many rows no more than what p needs
    gap = np.where(e.delta < _FAR, e.delta, e.largest - e.z)
    log_p = -(gap + e.log_sum)
    rest = -np.expm1(log_p)
    log_rest = np.log(rest)
    if not rest.all():
        # the nearest of the others is so far away that nothing of them is left beside 1
        nearest = np.where(gap > 0, gap, np.inf).min(axis=-1, keepdims=True)
        log_rest = np.where(rest > 0, log_rest, math.log(e.classes) - nearest)
    log_odds = log_p - log_rest
    up = rest / (1 + np.exp(-log_odds - tau))
    down = np.exp(log_p) / (1 + np.exp(log_odds - tau))
    return np.asarray(-np.expm1(-tau) * np.maximum(up, down))


def softmax_error(e: Estimates, fmt: Format) -> Float64:
    """The relative error that a probability may have, r = u·(3δ + 2·ln S₀ + 8) + 4·√k·u_acc + m/p, (m,)."""
    u = fmt.unit_roundoff
    found = u * softmax_roundings(e) + 4 * math.sqrt(e.classes) * summing_roundoff(fmt)
    if e.moved:
        found += moved_error(e, u) / np.maximum(e.p, np.finfo(np.float64).tiny)
    return found


def label_sum_error(e: Known, fmt: Format) -> Float64 | float:
    """R·n·u_acc: the error of W = Σq. Terms of one size, as of smoothing or uniform labels, do not cancel theirs."""
    return e.label_roundings * summing_roundoff(fmt)
