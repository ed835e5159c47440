"""Central-difference stencils with exact rational coefficients, each with its truncation bound.

    D_h = (1/h)·Σ_{j=1..m} c_j·[L(l + jh) − L(l − jh)],   order n = 2m
    D_h − g = (m!)²/(2m+1)!·h^n·L^(n+1)(ξ),   |ξ − l| <= mh

The coefficients and the remainder are those of Lagrange interpolation at the 2m + 1 nodes: Fornberg, "Generation of
finite difference formulas on arbitrarily spaced grids", Math. Comp. 51, 1988.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.polynomial import Polynomial

from gradcheck.exceptions import UsageError


@dataclass(frozen=True, kw_only=True)
class Stencil:
    """A central difference of even order.

    Attributes:
        coefficients: c_1 … c_m.
        remainder: (m!)²/(2m+1)!.
        softmax_growth: for m = 0 … n, K with |d^m p/dz^m| <= K·p, and for m > 0 also <= K·(1 − p).
        square_growth: for m = 0 … n, K with |d^m (lse·p)/dz^m − lse·d^m p/dz^m| <= K·p, for the term ζ·lse².
        cap_growth: for m = 1 … n + 1, the Bell polynomial B_{n+1,m} of the bounds τ_j, where the jth derivative of tanh
            is at most τ_j·sech²: how (n + 1)th derivatives under a softcap come from mth derivatives without one.
    """

    order: int
    coefficients: tuple[Fraction, ...]
    remainder: Fraction
    softmax_growth: tuple[float, ...]
    square_growth: tuple[float, ...]
    cap_growth: tuple[float, ...]

    @property
    def reach(self) -> int:
        """m: the outermost node stands m steps away."""
        return len(self.coefficients)

    @property
    def weight(self) -> float:
        """2·Σ|c_j|: how much of the loss's own rounding a difference gathers."""
        return 2 * float(sum(abs(c) for c in self.coefficients))


def _growth(derivative: int) -> float:
    """max |p^(n)|/p over 0 <= p <= 1, where dp/dl = p(1 − p); by symmetry also that over 1 − p, where n > 0."""
    if derivative == 0:
        return 1.0
    slope = Polynomial([0.0, 1.0, -1.0])
    inner = Polynomial([1.0])  # p^(n) = p(1 − p)·inner(p)
    for _ in range(derivative - 1):
        inner = (slope * inner).deriv()
    ratio = inner * Polynomial([1.0, -1.0])
    # the real parts of complex roots do no harm, and a root's own rounding moves a maximum only in second order
    places = np.concatenate([[0.0, 1.0], np.clip(np.real(ratio.deriv().roots()), 0.0, 1.0)])
    return float(np.abs(ratio(places)).max()) * (1 + 1e-9)


def _square_growth(derivative: int) -> float:
    """Leibniz: the derivatives of lse are those of p, one lower."""
    return sum(math.comb(derivative, j) * _growth(j - 1) * _growth(derivative - j) for j in range(1, derivative + 1))


def _cap_growth(derivative: int) -> tuple[float, ...]:
    """Faà di Bruno, with tanh^(j) = sech²·P_j(tanh), where P_1 = 1 and P_{j+1} = −2t·P_j + (1 − t²)·P_j'."""
    inner, bounds = Polynomial([1.0]), []
    for _ in range(derivative):
        places = np.concatenate([[-1.0, 1.0], np.clip(np.real(inner.deriv().roots()), -1.0, 1.0)])
        bounds.append(float(np.abs(inner(places)).max()) * (1 + 1e-9))
        inner = Polynomial([0.0, -2.0]) * inner + Polynomial([1.0, 0.0, -1.0]) * inner.deriv()
    # B_{n,m} = Σ_j C(n − 1, j − 1)·τ_j·B_{n−j,m−1}
    bell = {(0, 0): 1.0}
    for n in range(1, derivative + 1):
        for m in range(1, n + 1):
            bell[n, m] = sum(
                math.comb(n - 1, j - 1) * bounds[j - 1] * bell.get((n - j, m - 1), 0.0) for j in range(1, n - m + 2)
            )
    return tuple(bell[derivative, m] for m in range(1, derivative + 1))


def _stencil(order: int) -> Stencil:
    m = order // 2
    coefficients = tuple(
        Fraction((-1) ** (j + 1) * math.factorial(m) ** 2, j * math.factorial(m - j) * math.factorial(m + j))
        for j in range(1, m + 1)
    )
    return Stencil(
        order=order,
        coefficients=coefficients,
        remainder=Fraction(math.factorial(m) ** 2, math.factorial(2 * m + 1)),
        softmax_growth=tuple(_growth(m) for m in range(order + 1)),
        square_growth=tuple(_square_growth(m) for m in range(order + 1)),
        cap_growth=_cap_growth(order + 1),
    )


ORDERS = (2, 4, 6, 8)
_STENCILS = {order: _stencil(order) for order in ORDERS}


def stencil(order: int) -> Stencil:
    """The stencil of an order.

    Raises:
        UsageError: for an order that there is not.
    """
    if order not in _STENCILS:
        raise UsageError(f"--order is one of {', '.join(map(str, ORDERS))}, not {order}")
    return _STENCILS[order]
