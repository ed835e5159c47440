"""The closed form in float64 as an exact gradient that knows how far it may be off: a filter, cheap and rigorous.

What its uncertainty decides is decided, as with any other exact gradient; the rest is for central differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradcheck.estimates import Estimates, Known, RowsEstimates, estimate, estimate_rows
from gradcheck.exact import Dyadic
from gradcheck.formats import Float64, Format
from gradcheck.problem import Problem, RowStatus
from gradcheck.reference.rule import TARGET_BITS
from gradcheck.reference.values import Values


class ClosedForm:
    """The gradient of a problem for a format that is narrower than float64: see `ExactGradient`.

    Its values count in units of 1: no format but float64 holds what would underflow there.
    """

    def __init__(self, problem: Problem, fmt: Format) -> None:
        self._problem = problem
        status = problem.status
        defined = status == RowStatus.JUDGED
        self.at_once: RowsEstimates = estimate_rows(problem.terms, defined)
        self.judged: NDArray[np.bool_] = (status != RowStatus.UNDEFINED)[:, None]
        self._defined: NDArray[np.bool_] | None = None if defined.all() else defined
        gradient, error = self.at_once.gradient, self.at_once.error
        # central differences tell no less from 0
        error += fmt.smallest_subnormal * 2.0**-TARGET_BITS
        if self._defined is not None:
            gradient[~defined] = 0.0
            error[~defined] = 0.0
        size = np.abs(gradient)
        least = size - error
        ulp_log2 = fmt.ulp_log2(np.maximum(least, 0.0, out=least))
        most = fmt.ulp_log2(np.add(size, error, out=least))
        self.values = Values(
            format=fmt,
            high=gradient,
            low=np.zeros((1, 1)),
            ulp_log2=ulp_log2,
            ulp_most_log2=most,
            unit_log2=np.zeros((1, 1), dtype=np.int64),
            uncertainty=error,
            rough=True,
        )

    def exact(self, row: int, cls: int) -> Dyadic:
        """One value, to the digits that float64 holds."""
        return Dyadic.from_float(float(self.values.high[row, cls]))

    @property
    def loss(self) -> Dyadic | float:
        """That of all rows, to the digits that float64 holds."""
        total = float(self.at_once.loss[self._problem.status == RowStatus.JUDGED].sum())
        return Dyadic.from_float(total) if math.isfinite(total) else total

    @cached_property
    def estimates(self) -> Sequence[Estimates | None]:
        """What float64 knows of each row, by distinct pairs, (N,)."""
        return [None if row is None else estimate(row) for row in self._problem.distinct]

    def spread(self, function: Callable[[Known, Values], Float64]) -> Float64:
        """See `ExactGradient`."""
        found = function(self.at_once, self.values)
        if self._defined is not None:
            found[~self._defined] = 0.0
        return found
