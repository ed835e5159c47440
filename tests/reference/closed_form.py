"""The closed form s·f'·((W + 2ζ·lse)·p − q) in mpmath objects at many digits: what the reference must meet.

Written apart from the program and by another rule, so that a shared mistake cannot hide.
"""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np

from gradcheck.exact import Dyadic, to_fraction
from gradcheck.problem import Row


def gradient(row: Row, digits: int = 1300) -> list[Fraction]:
    """∂L/∂l of each distinct pair, good to about `digits` digits after the point."""
    context = mpmath.MPContext()
    context.dps = digits

    def real(x: Fraction | float) -> mpmath.mpf:
        x = Fraction(x)
        return context.mpf(x.numerator) / x.denominator

    temperature = real(row.temperature)
    cap = None if row.softcap is None else real(row.softcap)
    z: list[mpmath.mpf | None] = []
    slope: list[mpmath.mpf] = []
    for logit in row.logits.tolist():
        if logit == -np.inf:
            z.append(None)
            slope.append(1 / temperature if cap is None else context.mpf(0))
        elif cap is None:
            z.append(real(logit) / temperature)
            slope.append(1 / temperature)
        else:
            z.append(cap * context.tanh(real(logit) / cap) / temperature)
            slope.append(context.sech(real(logit) / cap) ** 2 / temperature)
    top = max(value for value in z if value is not None)
    exps = [context.mpf(0) if value is None else context.exp(value - top) for value in z]
    total = context.fsum(int(n) * e for n, e in zip(row.counts, exps, strict=True))
    lse = top + context.log(total)
    weight = real(row.total_q) + 2 * real(row.zeta) * lse
    values = [real(row.scale) * f * (weight * e / total - real(q)) for f, e, q in zip(slope, exps, row.q, strict=True)]
    return [exact(value) for value in values]


def exact(value: mpmath.mpf) -> Fraction:
    """The rational that an mpmath number is."""
    dyadic = Dyadic.from_mpf(value._mpf_)
    return to_fraction(dyadic)
