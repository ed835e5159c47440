"""Central differences in Arb's ball arithmetic (python-flint): every value comes as a proved enclosure.

python-flint's precision belongs to the whole process. It is taken under a lock and put back, so that threads and
callers keep theirs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
from flint import arb, ctx, fmpq

from gradcheck.estimates import Estimates
from gradcheck.exact import Dyadic
from gradcheck.problem import Row
from gradcheck.reference.engines import Evaluation, cut
from gradcheck.reference.rule import Plan

CERTIFIED = True
"""The rounding bound is the radius of a ball that Arb proves to hold the value."""

_LOSS_BITS = 128
_LOCK = threading.RLock()


@contextmanager
def _precision(bits: int) -> Iterator[None]:
    with _LOCK:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before


def incremental(estimates: Estimates, plan: Plan) -> Evaluation:
    """Every perturbed loss from S± = S·(1 + (exp(z_i±) − exp(z_i))/S): O(1) work for each component."""
    with _precision(plan.precision_bits):
        row, stencil = estimates.row, plan.stencil
        balls = _Balls(row)
        exps = [arb(0) if z is None else (z - balls.largest).exp() for z in balls.z]
        shared = np.flatnonzero(row.counts > 1).tolist()
        total = _sum(exps) + _sum((int(row.counts[i]) - 1) * exps[i] for i in shared)
        scale = _ball(row.scale)
        step = _ball(Fraction(2) ** plan.step_log2)
        nodes = [(j, _ball(c)) for j, c in enumerate(stencil.coefficients, start=1)]
        if row.softcap is None and not row.zeta:
            values = _plain(row, exps, total, scale, step, nodes)
        else:
            values = _general(balls, exps, total, scale, step, nodes)
        for i in np.flatnonzero(row.logits == -np.inf).tolist():
            values[i] = -scale * _ball(row.q[i])
        return _evaluation(values)


def _plain(row: Row, exps: list[arb], total: arb, scale: arb, step: arb, nodes: list[tuple[int, arb]]) -> list[arb]:
    """f(l) = l/T and ζ = 0: what a step does to exp is one factor for all components."""
    temperature = _ball(row.temperature)
    gathered: list[arb] = []
    for j, c in nodes:
        rise, fall = ((sign * j * step / temperature).expm1() / total for sign in (1, -1))
        weight = c * _ball(row.total_q) * scale / step
        part = [((e * rise).log1p() - (e * fall).log1p()) * weight for e in exps]
        gathered = [a + b for a, b in zip(gathered, part, strict=True)] if gathered else part
    # a central difference of the line q·z is its slope, exactly
    for i in np.flatnonzero(row.q_estimate).tolist():
        gathered[i] -= scale * _ball(row.q[i]) / temperature
    return gathered


def _general(
    balls: _Balls, exps: list[arb], total: arb, scale: arb, step: arb, nodes: list[tuple[int, arb]]
) -> list[arb]:
    """Any f, and ζ: both perturbed losses, but for what the two have in common."""
    row = balls.row
    total_q, zeta = _ball(row.total_q), _ball(row.zeta)
    lse = balls.largest + total.log()
    values = []
    for i, (e, q) in enumerate(zip(exps, row.q, strict=True)):
        value: arb = arb(0)
        if balls.z[i] is not None:
            for j, c in nodes:
                up, down = (balls.moved(i, sign * j * step) for sign in (1, -1))
                rise, fall = ((((z - balls.largest).exp() - e) / total).log1p() for z in (up, down))
                value += c * (total_q * (rise - fall) - _ball(q) * (up - down))
                if row.zeta:
                    value += c * zeta * ((lse + rise) ** 2 - (lse + fall) ** 2)
        values.append(value * scale / step)
    return values


def direct(estimates: Estimates, plan: Plan) -> Evaluation:
    """The loss from its definition at every perturbed point: O(k) work for each, O(k²) for the row."""
    row = estimates.row
    # the linear term is not shifted by the maximum, and cancels digits in proportion to the logits
    wide = max(0, math.frexp(float(np.abs(row.logits[np.isfinite(row.logits)]).max()))[1])
    with _precision(plan.precision_bits + wide):
        balls = _Balls(row)
        scale, step = _ball(row.scale), _ball(Fraction(2) ** plan.step_log2)

        def loss(moved: int, by: arb) -> arb:
            points = [(int(n), z, q) for n, z, q in zip(row.counts, balls.z, row.q, strict=True)]
            n, z, q = points[moved]
            points[moved] = (n - 1, z, q)
            points.append((1, balls.moved(moved, by), q))
            present = [(n, z, q) for n, z, q in points if n and z is not None]
            log_sum = _sum(n * (z - balls.largest).exp() for n, z, _ in present).log() + balls.largest
            linear = _sum(n * _ball(q) * z for n, z, q in present if q)
            value = _ball(row.total_q) * log_sum - linear
            return value + _ball(row.zeta) * log_sum**2 if row.zeta else value

        values = []
        for i, z in enumerate(balls.z):
            if z is None:
                values.append(-scale * _ball(row.q[i]))
                continue
            nodes = enumerate(plan.stencil.coefficients, start=1)
            values.append(_sum(_ball(c) * (loss(i, j * step) - loss(i, -j * step)) for j, c in nodes) * scale / step)
        return _evaluation(values)


METHODS: dict[str, Callable[[Estimates, Plan], Evaluation]] = {"incremental": incremental, "direct": direct}


def loss(estimates: Estimates) -> Dyadic:
    """The row's loss s·[Σ q(z_max − z) + W·ln S + ζ·lse²] to some 128 bits."""
    row = estimates.row
    with _precision(_LOSS_BITS):
        balls = _Balls(row)
        args = [None if z is None else z - balls.largest for z in balls.z]
        top = next(i for i in reversed(range(len(args))) if args[i] is not None)
        # all classes but one of the largest: S itself would hide e^-100 behind its 1
        counts = [n - (i == top) for i, n in enumerate(row.counts.tolist())]
        log_sum = _sum(n * a.exp() for n, a in zip(counts, args, strict=True) if n and a is not None).log1p()
        value = _ball(row.total_q) * log_sum
        if row.zeta:
            value += _ball(row.zeta) * (balls.largest + log_sum) ** 2
        for q, n, a in zip(row.q, row.counts.tolist(), args, strict=True):
            if q and a is not None:
                value -= _ball(q) * n * a
        return _dyadic(value * _ball(row.scale))


class _Balls:
    """One row's transformed logits; None where masked."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self._plain = row.softcap is None and row.temperature == 1
        self.z = [None if logit == -math.inf else self._transformed(arb(logit)) for logit in row.logits.tolist()]
        # pairs are sorted by logit, and f increases
        self.largest = next(z for z in reversed(self.z) if z is not None)

    def moved(self, i: int, by: arb) -> arb:
        """z of a logit that is moved; exactly, however large it is."""
        logit = float(self.row.logits[i])
        return self._transformed(arb(logit) + by)

    def _transformed(self, logit: arb) -> arb:
        if self._plain:
            return logit
        if self.row.softcap is None:
            return logit / _ball(self.row.temperature)
        cap = _ball(self.row.softcap)
        return cap * (logit / cap).tanh() / _ball(self.row.temperature)


def _sum(terms: Iterable[arb]) -> arb:
    return sum(terms, arb(0))


def _ball(x: Fraction) -> arb:
    return arb(fmpq(x.numerator, x.denominator))


def _dyadic(x: arb) -> Dyadic:
    man, exp = x.mid().man_exp()
    return Dyadic(int(man), int(exp))


def _evaluation(balls: list[arb]) -> Evaluation:
    """Midpoints as two float64 and a power of two, with log2 of what the radius is below."""
    high = np.array([float(x) for x in balls])
    low = np.array([float(x - h) for x, h in zip(balls, high.tolist(), strict=True)])
    accuracy = np.array([x.rel_accuracy_bits() for x in balls], dtype=np.float64)
    exponent = np.zeros(len(balls), dtype=np.int64)
    # Arb counts the bits from the top of the midpoint to the top of the radius
    rounding_log2 = np.frexp(high)[1] - accuracy
    # What float64 cannot hold as a normal number, or holds to the last bit of its low half, goes another way
    for i in np.flatnonzero(~((np.abs(high) > 1e-250) & (np.abs(accuracy) < 1e5))).tolist():
        if not balls[i].is_finite():
            # nothing is known, which no precision of the user's own is too low to say
            high[i], low[i], rounding_log2[i] = 0.0, 0.0, math.inf
            continue
        rounding_log2[i] = math.nextafter(_dyadic(balls[i].rad()).log2(), math.inf)
        high[i], low[i], exponent[i] = cut(_dyadic(balls[i]))
    return Evaluation(
        high=high,
        low=low,
        exponent=exponent,
        rounding_log2=rounding_log2,
        exact=lambda i: _dyadic(balls[i]) if balls[i].is_finite() else Dyadic(0, 0),
    )
