"""How step and working precision follow from the format, and how far truncation can be off.

A central difference of order n with step h = 2^-H errs by at most C·h^n·M, where M bounds the (n+1)th derivative of the
loss, and evaluating it at P bits loses about H + log2(1/ulp) of them. The gradient's format fixes the goal: an
uncertainty of 2^-G ulp. docs/numerics.md derives the rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gradcheck.estimates import Estimates
from gradcheck.formats import Float64, Format, Int64
from gradcheck.reference.stencils import Stencil

TARGET_BITS = 10
"""G: by default a reference is good to 2^-10 ulp of the gradient's format."""

SHARPEST_TARGET_BITS = 320
"""G at which a limit that is still not decided counts as met exactly."""

PRECISION_CAP_BITS = 20_000
"""Working precision beyond which a row is given up as undecided."""

# The bounds are computed from float64 estimates, whose own errors this covers many times over
_ESTIMATES = 1 + 2.0**-20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A central difference of one row: its stencil, its step 2^`step_log2` and its working precision in bits.

    Attributes:
        derivative_log2: what `derivative_log2` says of the row and the stencil.
    """

    stencil: Stencil
    step_log2: int
    precision_bits: int
    derivative_log2: Float64 = field(repr=False, compare=False)


def plan(
    estimates: Estimates,
    fmt: Format,
    ulp_log2: Int64,
    stencil: Stencil,
    target_bits: int,
    step_log2: int | None = None,
) -> Plan:
    """The step and precision at which the reference of this row should reach 2^-`target_bits` ulp.

    Args:
        ulp_log2: log2 of each component's ulp in the gradient format `fmt`, as far as it is known, (m,).
        step_log2: the user's own step, if any.
    """
    bound_log2 = derivative_log2(estimates, stencil)
    if step_log2 is None:
        excess = float((bound_log2 - ulp_log2).max()) + math.log2(stencil.remainder)
        widest = math.floor(math.log2(min(estimates.temperature, estimates.softcap) / 16))
        step_log2 = -max(4, math.ceil((target_bits + 1 + excess) / stencil.order), -widest)
    depth = min(-fmt.subnormal_log2, -int(ulp_log2.min()))
    # labels that are all 0 leave no loss and no gradient
    size = estimates.scale * max(estimates.weight, float(np.abs(estimates.q).max()))
    inner = target_bits - step_log2 + depth + (math.ceil(math.log2(size * stencil.weight)) if size else 0)
    if math.isfinite(estimates.softcap):
        inner += math.ceil(math.log2(max(1.0, estimates.reach)))
    classes = estimates.row.classes
    guard = math.ceil(math.log2(classes * (math.log(classes) + 2))) + 4
    return Plan(
        stencil=stencil,
        step_log2=step_log2,
        precision_bits=max(fmt.precision + target_bits, inner) + guard,
        derivative_log2=bound_log2,
    )


def derivative_log2(estimates: Estimates, stencil: Stencil) -> Float64:
    """log2 of M, a bound on |∂^(n+1)L/∂l_i^(n+1)| at the point, (m,); -inf for a masked class only, inf for none."""
    e = estimates
    tiny = math.ldexp(1.0, -1074)
    # p and G that float64 holds as subnormals, or not at all, must not make a bound too small
    inner = np.abs(e.inner) + tiny

    def of_loss(m: int) -> Float64:
        """A bound on the loss's (m + 1)th derivative in z_i, but for s."""
        growth, square = stencil.softmax_growth[m], stencil.square_growth[m]
        if m == 0:
            if e.row.one_hot:
                return inner
            # W + 2ζ·lse may be negative, and q no less: only without a z-loss do the two terms take from each other
            found, label = e.times_p(e.weight) + tiny, np.abs(e.q)
            return np.maximum(found, label) if e.zeta == 0 else found + label
        bound = e.times_p(e.weight * growth + 2 * abs(e.zeta) * square) + tiny
        return np.minimum(bound, growth * inner) if e.row.one_hot else bound

    slope, order = np.abs(e.slope) + tiny, stencil.order
    if e.row.softcap is None:
        bound = of_loss(order) / e.temperature**order
    else:
        bound = np.zeros(len(inner))
        for m, growth in enumerate(stencil.cap_growth):
            bound += growth * of_loss(m) / (e.temperature**m * e.softcap ** (order - m))
    return np.where(np.isneginf(e.z), -np.inf, np.log2(e.scale * slope * bound + tiny))


def truncation_log2(estimates: Estimates, used: Plan) -> Float64:
    """log2 of the bound on |D_h − g| for each pair, (m,); -inf for a masked class.

    The derivative is taken somewhere within m steps; over that distance a probability, or its complement, grows by
    no more than exp(m·h/T). With a softcap the bound holds for steps up to c/16 only.
    """
    stencil, step = used.stencil, math.ldexp(1.0, used.step_log2)
    narrow = min(estimates.temperature, estimates.softcap)
    if math.isfinite(estimates.softcap) and step > narrow / 16:
        return np.full(len(estimates.z), math.inf)
    exponent = step * stencil.reach / narrow * (4 if estimates.zeta or math.isfinite(estimates.softcap) else 1)
    constant = math.log2(stencil.remainder) + exponent / math.log(2) + math.log2(_ESTIMATES)
    return used.derivative_log2 + (constant + stencil.order * used.step_log2)
