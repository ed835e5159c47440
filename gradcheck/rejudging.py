"""Results judged by another tolerance, from what was measured, without the arrays."""

from __future__ import annotations

import dataclasses
import math
import shlex

from gradcheck.exceptions import UsageError
from gradcheck.results import Judged, Result, Verdict
from gradcheck.tolerances import Absolute, Norm, Relative, Stable, Tolerance, Ulp


def again(result: Result, tolerance: Tolerance) -> Result:
    """The result under another tolerance; what was not judged stays as it is.

    Raises:
        UsageError: for a tolerance that no single largest error decides.
    """
    if not isinstance(result.outcome, Judged) or result.tolerance == str(tolerance):
        return result
    return dataclasses.replace(
        result,
        outcome=_judged(result.outcome, tolerance),
        tolerance=str(tolerance),
        again=_under(result.again, tolerance),
    )


def _under(command: str, tolerance: Tolerance) -> str:
    """A command line with another tolerance."""
    if not command:
        return ""
    words = shlex.split(command)
    if "--tolerance" in words:
        place = words.index("--tolerance")
        del words[place : place + 2]
    return shlex.join([*words, "--tolerance", str(tolerance)])


def _judged(judged: Judged, tolerance: Tolerance) -> Judged:
    most = _most(tolerance)
    worst = judged.measures.extremes[tolerance.metric]
    if worst is None:
        return judged
    of_limit = worst.value / most if most else 0.0 if worst.value == 0 else math.inf
    # the exact value's own uncertainty, as a part of the error
    slack = worst.uncertainty_ulp / worst.ulp if worst.ulp else 0.0
    verdict, failed = Verdict.INCONCLUSIVE, 0
    if judged.conduct.wrong or of_limit * (1 - slack) > 1 or not math.isfinite(worst.candidate):
        verdict = Verdict.FAIL
        failed = int(not of_limit <= 1)
    elif of_limit * (1 + slack) <= 1:
        verdict = Verdict.PASS
    decision = dataclasses.replace(
        judged.decision,
        failed=failed,
        counted=False,
        undecided_rows=[worst.row] if verdict is Verdict.INCONCLUSIVE else [],
        worst=dataclasses.replace(worst, value=of_limit),
        limit_ulps=worst.ulp / of_limit if of_limit else math.inf,
        top=(),
    )
    diagnosis = judged.diagnosis if verdict is Verdict.FAIL else ()
    return dataclasses.replace(judged, verdict=verdict, decision=decision, diagnosis=diagnosis, sufficient=None)


def _most(tolerance: Tolerance) -> float:
    match tolerance:
        case Stable():
            return 1.0
        case Ulp(most=most) | Relative(most=most) | Absolute(most=most) | Norm(most=most):
            return most
        case _:
            raise UsageError(
                f"tolerance '{tolerance}' needs every component, and a report holds the worst: check again"
            )
