"""What happens to a gradient that is right, or right for another question: each is tried on every `Base`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradcheck import text
from gradcheck.diagnosis._view import Base, Finding, Mask, Parts, View, many, resolution, times
from gradcheck.formats import FORMATS, Float64, Format, named
from gradcheck.text import brief

Effect = Callable[[View, Base], Finding | None]

_GUARD = 1e-5
"""The largest probability that a guard is taken to clip."""
_SHORT = 5
_TELLING = 2
"""Different numbers, of more bits than that, that tell a format."""
_FINER = 2**10
"""How much finer a format is at least, where what is taken from numbers of the other still shows them."""
_OF_THE_SUM = "return that of the sum: where a mean is asked for, it is taken of what is returned"
_PAIR = 2
_ROUGH = 0.05
"""How far from a smooth function, and how often, what is told of one may be."""
_FEW = 8
"""Entries that are wrong by themselves, at most."""


def zeros(view: View, base: Base) -> Finding | None:
    """Nothing at all."""
    if view.candidate.any() or base is not view.own:
        return None
    if (view.judged & (view.at_labels(view.parts.p) < _GUARD)).any() and clipped(view, base):
        return None
    return Finding(cause="scaled", evidence="every component is 0", fix="return the gradient that was computed")


def scaled(view: View, base: Base) -> Finding | None:
    """A constant factor."""
    size = base.size
    place = np.unravel_index(np.argmin(resolution(size, base.bound)), size.shape)
    if size[place] < 4 * base.bound[place] or not np.isfinite(view.candidate[place]):
        return None
    factor = float(view.candidate[place] / base.gradient[place])
    near_one = abs(factor - 1) * size[place] <= 2 * base.bound[place]
    # sound, and then multiplied
    bound = abs(factor) * (base.bound + view.format.unit_roundoff * size) + view.format.smallest_subnormal
    if near_one or not view.is_gradient(factor * base.gradient, bound):
        return None
    if abs(factor + 1) * size[place] <= 2 * base.bound[place]:
        return Finding(cause="sign", evidence="every component has the opposite sign", fix="return ŷ − y, not y − ŷ")
    cause = "mixed" if factor < 0 else "scaled"
    factor = _shortest(factor, base.bound[place] / size[place] / 8)
    name, fix, option = _meaning(view, abs(factor))
    sign = ""
    if factor < 0:
        sign, fix, option = ", with the opposite sign", f"return ŷ − y, not y − ŷ; {fix}", ""
    return Finding(
        cause=cause,
        evidence=f"every component is {times(abs(factor))} what is due{name}{sign}",
        fix=fix,
        option=option,
    )


def _shortest(number: float, within: float) -> float:
    """The number of fewest digits that is so near, relative."""
    for digits in range(1, 17):
        rounded = float(f"{number:.{digits}g}")
        if abs(rounded - number) <= within * abs(number):
            return rounded
    return number


def _meaning(view: View, factor: float) -> tuple[str, str, str]:
    """What a factor may be: its name, what to do, and the option that would agree."""
    problem = view.problem
    rows, classes, kept = problem.rows, problem.classes, int(view.judged.sum())
    divisor = problem.terms.divisor
    reduced = any(option.name == "reduction" for option in problem.loss)
    known: list[tuple[float, str, str, str]] = []
    if view.summed:
        taken = float(divisor or rows)
        known.append((1 / taken, f" = 1/{taken:g}: this is the gradient of the mean", _OF_THE_SUM, ""))
        known.append((taken, f" = {taken:g}, what a mean divides by", "do not multiply by it", ""))
    elif divisor:
        if float(divisor) != kept:
            known.append(
                (float(divisor), " = the sum of the labels' weights", "divide by it once", "--loss reduction=sum")
            )
            known.append(
                (
                    float(divisor) / kept,
                    " = their weights over the number of rows",
                    "divide by the weights",
                    "--loss reduction=mean:count",
                )
            )
        known.append(
            (
                float(divisor),
                f" = {float(divisor):g}, what the mean divides by: this is the gradient of the sum",
                "divide by it, or check the sum",
                "--loss reduction=sum",
            )
        )
        known.append((1 / float(divisor), f" = 1/{float(divisor):g}: the mean is taken twice", "divide once", ""))
        known.append(
            (
                kept / rows,
                f" = {kept}/{rows}: the mean counts rows that are ignored",
                "divide by the rows that are kept",
                "--loss reduction=mean:rows",
            )
        )
    else:
        if not reduced:
            known.append(
                (
                    1 / rows,
                    f" = 1/{rows}: this is the gradient of the mean",
                    "return that of the sum, or check the mean",
                    "--loss reduction=mean",
                )
            )
        known.append((float(rows), f" = {rows}, the number of rows", "do not multiply by it", ""))
    known.append((1 / classes, f" = 1/{classes}, over the number of classes", "sum over classes, do not average", ""))
    known.append((float(classes), f" = {classes}, the number of classes", "do not multiply by it", ""))
    for value, name, fix, option in known:
        if value != 1 and abs(factor / value - 1) < 64 * view.format.unit_roundoff:
            return name, fix, option
    option = "" if view.summed else f"--loss upstream={factor!r}"
    return "", "look for a factor that is applied twice, or not at all", option


def transposed(view: View, base: Base) -> Finding | None:
    """The array in another order in memory."""
    if view.problem.rows == 1 or view.problem.classes == 1:
        return None
    gradient, bound = (np.ascontiguousarray(array.T).reshape(array.shape) for array in (base.gradient, base.bound))
    if not view.is_gradient(gradient, bound):
        return None
    shape = f"({view.problem.classes}, {view.problem.rows})"
    return Finding(cause="transposed", evidence=f"the array is right as {shape} in memory", fix="transpose it back")


def constant(view: View, base: Base) -> Finding | None:
    """Something added to every component of a row."""
    apart = np.where(view.judged[:, None], view.candidate - base.gradient, 0.0)
    if not np.isfinite(apart).all():
        return None
    added = np.median(apart, axis=1, keepdims=True)
    added = np.where(np.abs(added) > base.bound.max(axis=1, keepdims=True), added, 0.0)
    moved = (np.abs(added) > 4 * base.bound.max(axis=1, keepdims=True)).any()
    u = view.format.unit_roundoff
    if (
        not moved
        or view.problem.classes < 3
        or not view.is_gradient(base.gradient + added, base.bound + 4 * u * np.abs(added))
    ):
        return None
    if base.parts is not None and (np.ptp(base.parts.p, axis=1)[added[:, 0] != 0] == 0).all():
        return None  # where all probabilities are equal it may as well be a factor, which is likelier
    off = added[added != 0]
    low, high = float(off.min()), float(off.max())
    size = brief(low) if brief(low) == brief(high) else f"{brief(low)} to {brief(high)}"
    rows = "a row" if off.size == view.judged.sum() else f"{text.count(off.size, 'row')} of {int(view.judged.sum()):,}"
    return Finding(
        cause="constant-offset",
        evidence=f"every component of {rows} is off by the same {size}",
        fix="find what is added to all",
    )


def ignored_rows(view: View, base: Base) -> Finding | None:
    """Rows that should be 0."""
    wrong = ~view.near(base.gradient, base.bound)
    if not wrong.any() or wrong[view.judged].any():
        return None
    rows = np.flatnonzero(wrong.any(axis=1))
    kind = "NaN" if np.isnan(view.candidate[rows]).any() else "not 0"
    return Finding(
        cause="ignored-rows",
        evidence=f"only ignored rows are wrong: {text.count(rows.size, 'row')} {kind}, the first is row {{row}}",
        fix="set ignored rows to 0; multiplying by 0 keeps NaN",
        rows=(int(rows[0]),),
    )


def empty_mean(view: View, base: Base) -> Finding | None:
    """0/0 where a mean is over nothing."""
    if view.problem.terms.divisor != 0 or not np.isnan(view.candidate).all():
        return None
    return Finding(
        cause="other-convention",
        evidence="every component is NaN, and the mean is over nothing",
        fix="decide what a mean over nothing is, and return 0 for its gradient",
        option="--loss empty=nan",
    )


def uncountable(view: View, base: Base) -> Finding | None:
    """Probabilities that are all 0, where there are more classes than the format can count."""
    fmt, classes = view.format, view.problem.classes
    if classes <= fmt.max or np.count_nonzero(view.candidate) > view.problem.rows or not flushed(view, base):
        return None
    return Finding(
        cause="half-precision-sum",
        evidence=f"every probability is 0: {classes:,} is no number of {fmt.name}",
        fix="count in float32",
    )


def flushed(view: View, base: Base) -> Finding | None:
    """Small numbers that became 0."""
    wrong = ~view.near(base.gradient, base.bound)
    zeros = wrong & (view.candidate == 0)
    if not wrong.any() or (wrong != zeros).any():
        return None
    largest = float(np.abs(base.gradient[wrong]).max())
    size = np.abs(np.where(view.judged[:, None], view.candidate, 0.0))
    least = view.format.smallest_normal
    if largest < least and not ((size > 0) & (size < least)).any():
        return Finding(
            cause="flushed-subnormals",
            evidence=f"{many(wrong, 'component')} below the smallest normal number, {brief(least)}, are 0",
            fix="keep subnormal numbers, or accept it",
            option="--ftz",
        )
    # nothing of that size but whole blocks: a filter
    if wrong.sum() > _FEW and size.any():
        blocks = wrong.sum(axis=1)
        if largest < 0.01 and (blocks[blocks > 0] >= 4).all():
            return Finding(
                cause="isolated-entries",
                evidence=f"{many(wrong, 'component')} up to {brief(largest)} are 0, the others right",
                fix="do not drop small components: together they count",
            )
    return None


def clipped(view: View, base: Base) -> Finding | None:
    """Rows that are 0, or shrunk, because the probability of the true class passed a guard."""
    if base.parts is None:
        return None
    fit = view.near(base.gradient, base.bound).all(axis=1) | ~view.judged
    p = view.at_labels(base.parts.p)
    zero = ~fit & (view.candidate == 0).all(axis=1)
    if zero.any() and (zero == ~fit).all():
        low, high = zero & (p < 0.5), zero & (p >= 0.5)
        if (p[low] > _GUARD).any() or (1 - p[high] > _GUARD).any():
            return None
        good = p[fit & view.judged & view.candidate.any(axis=1)]
        consistent = (not low.any() or p[low].max() < good[good < 0.5].min(initial=1.0)) and (
            not high.any() or p[high].min() > good[good >= 0.5].max(initial=0.0)
        )
        if consistent:
            ends = [f"p <= {brief(float(p[low].max()))}"] if low.any() else []
            ends += [f"1 - p <= {brief(float(1 - p[high].min()))}"] if high.any() else []
            return Finding(
                cause="clipped-probabilities",
                evidence=f"{many(zero, 'row')} with {' or '.join(ends)} at the true class are 0 throughout",
                fix="compute the loss from logits; a clipped probability has derivative 0",
            )
    return _epsilon(view, base, p)


def _epsilon(view: View, base: Base, p: Float64) -> Finding | None:
    """Rows that are p/(p + ε) of what is due."""
    rows = np.flatnonzero(view.judged)
    if not rows.size:
        return None
    sharpest = np.argmin(resolution(np.abs(base.gradient), base.bound), axis=1)
    at = (rows, sharpest[rows])
    factors = view.candidate[at] / base.gradient[at]
    usable = (factors > 0) & (factors < 1)
    if not usable.any():
        return None
    rows, factors, at = rows[usable], factors[usable], (at[0][usable], at[1][usable])
    epsilons = p[rows] * (1 / factors - 1)
    error = 2 * base.bound[at] / np.abs(base.gradient[at]) * p[rows] / factors**2
    sharp = int(np.argmin(error / np.maximum(np.abs(epsilons), 1e-300)))
    epsilon = float(epsilons[sharp])
    if not 0 < epsilon < 1e-2 or not error[sharp] < epsilon:
        return None
    rounded = float(f"{epsilon:.0e}")
    if abs(rounded - epsilon) <= max(float(error[sharp]), 4 * view.format.unit_roundoff * epsilon):
        epsilon = rounded
    elif np.ptp(p[rows]) < p[rows].max() / 2:
        return None  # with one probability, any factor is that of some epsilon
    factor = (p / (p + epsilon))[:, None]
    if not view.is_gradient(base.gradient * factor, base.bound + view.format.smallest_subnormal):
        return None
    return Finding(
        cause="clipped-probabilities",
        evidence=f"every row is p/(p + {brief(epsilon)}) of what is due, p that of its true class",
        fix="compute the loss from logits, without an epsilon in the logarithm",
    )


def masked(view: View, base: Base) -> Finding | None:
    """NaN where masks meet."""
    seen = _broken(view, base)
    return None if seen is None else seen.masked()


def quotient(view: View, base: Base) -> Finding | None:
    """NaN where −y/ŷ divides by 0."""
    seen = _broken(view, base)
    return None if seen is None else seen.quotient()


def unshifted(view: View, base: Base) -> Finding | None:
    """exp that overflows or vanishes without a shift."""
    seen = _broken(view, base)
    return (
        None
        if seen is None
        else seen.shifted(
            "overflow-unshifted",
            ("without a shift", "subtract the row's maximum before exp", np.zeros((1, 1))),
            ("with a running maximum from 0", "start it at -inf", np.maximum(0.0, seen.z.max(axis=1, keepdims=True))),
        )
    )


def misshifted(view: View, base: Base) -> Finding | None:
    """exp that overflows or vanishes with a wrong shift."""
    fix = "take the maximum over the classes of each row"
    seen = _broken(view, base)
    return (
        None
        if seen is None
        else seen.shifted(
            "wrong-row-max",
            ("shifted by the batch's maximum", fix, np.full((1, 1), seen.z.max())),
            ("shifted by the row's first logit", fix, seen.z[:, :1]),
        )
    )


def _broken(view: View, base: Base) -> _Broken | None:
    """Rows that overflow, underflow or are masked, where the others are right."""
    if base.parts is None:
        return None
    near = view.near(base.gradient, base.bound)
    bad = ~near.all(axis=1) & view.judged
    holes = ~np.isfinite(view.candidate)
    # all that is left of a row whose sum is infinite
    labels = base.parts.scale * base.parts.slope * base.parts.q
    labels_alone = np.asarray((np.abs(view.candidate + labels) <= 2 * base.bound).all(axis=1))
    if not bad.any() or not near[view.ignored].all():
        return None
    return _Broken(view=view, base=base, bad=bad, holes=holes, near=near, labels_alone=labels_alone)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Broken:
    """Rows that are NaN, infinite, or nothing but their labels."""

    view: View
    base: Base
    bad: Mask
    holes: Mask
    near: Mask
    labels_alone: Mask

    @property
    def rows(self) -> str:
        """How many."""
        return f"{many(self.bad, 'row')} of {int(self.view.judged.sum()):,}"

    @property
    def z(self) -> Float64:
        """Transformed logits."""
        assert self.base.parts is not None
        return self.base.parts.z

    def masked(self) -> Finding | None:
        """NaN where masks meet."""
        lowest = self.view.problem.logits.astype(np.float64) <= -self.view.problem.format.max
        masked = (np.isneginf(self.z) | lowest).any(axis=1)
        if not self.holes[self.bad].any() or (self.bad & ~masked).any() or not (self.holes | self.near)[self.bad].all():
            return None
        return Finding(
            cause="masked-nan",
            evidence=f"NaN in {self.rows}, all of which hold masks of -inf or of the lowest number",
            fix="guard -inf - (-inf) and 0 times -inf",
        )

    def quotient(self) -> Finding | None:
        """Rows that are NaN throughout and whose true class underflows; where exp overflows, others stay finite."""
        assert self.base.parts is not None
        least = self.view.problem.format.smallest_normal
        lowest = np.where(self.base.parts.q == 0, 1.0, self.base.parts.p).min(axis=1)
        whole = self.holes.all(axis=1)
        if (self.bad & ~(whole & (lowest < least))).any() or (self.view.judged & (lowest == 0) & ~self.bad).any():
            return None
        return Finding(
            cause="wrt-probabilities",
            evidence=f"NaN throughout {self.rows}, with a label of a probability below {brief(least)}",
            fix="use ŷ − y: −y/ŷ on the way to it divides by 0",
        )

    def shifted(self, cause: str, *shifts: tuple[str, str, Float64]) -> Finding | None:
        """Rows that are those which exp breaks in some format, with the first shift that does: in words, with its fix.

        Args:
            shifts: (N, 1) or (1, 1), what is subtracted.
        """
        for fmt in dict.fromkeys((self.view.problem.format, named(self.view.problem.format.accumulator))):
            for how, fix, shift in shifts:
                if self._explained(fmt, shift):
                    broken = (self.bad & (self.holes.any(axis=1) | self.labels_alone)).any()
                    what = "NaN or nothing but labels" if broken else "wrong"
                    return Finding(
                        cause=cause,
                        evidence=f"{what} in {self.rows}, where exp {how} overflows or vanishes in {fmt.name}",
                        fix=fix,
                    )
        return None

    def _explained(self, fmt: Format, shift: Float64) -> bool:
        """Whether exp(z − shift) in a format breaks the rows that are broken, and blurs those that are blurred."""
        own, judged = self.base.parts, self.view.judged
        assert own is not None
        top = own.z.max(axis=1, keepdims=True) - shift
        # NaN stands for a shift that is NaN
        log_total = np.where(np.isnan(top), -np.inf, top + np.log(own.total))
        total = np.exp(np.minimum(log_total, 700.0))
        over, under = math.log(fmt.max), math.log(fmt.smallest_subnormal)
        certainly = (log_total > over + 2) | (log_total < under - 2)
        possibly = (log_total > over - 2) | (log_total < under + np.log(own.total) + 2)
        held = own.total < fmt.max
        certainly, possibly = (certainly & held)[:, 0], (possibly & held)[:, 0]
        # an infinite sum of finite terms leaves the labels alone; all else leaves NaN
        summed = ((log_total > over - 1) & (top < over + 1))[:, 0]
        broken = self.holes.any(axis=1) | (self.labels_alone & summed)
        least = fmt.smallest_subnormal
        lost = np.abs(own.scale * own.slope * own.weight) * (4 * least / np.maximum(total, least))
        blurred = self.view.near(self.base.gradient, self.base.bound + lost).all(axis=1)
        if (judged & certainly & ~broken).any() or (judged & ~possibly & ~blurred).any():
            return False
        if (judged & ~blurred & ~broken).any():
            return False
        seen = self.bad & broken & possibly
        return bool(seen.any() or (~self.near[self.bad]).sum() >= _FEW)


def narrow(view: View, base: Base) -> Finding | None:
    """Numbers of a narrower format, widened; or such probabilities, from which labels were taken in a wider one."""
    values = view.candidate[view.judged]
    values = values[np.isfinite(values) & (values != 0)]
    if base.parts is None:
        return None
    # numbers of few bits are of every format
    distinct = int((np.frexp(np.unique(np.abs(values)))[0] * 2**_SHORT % 1 != 0).sum())
    wrong = ~view.near(base.gradient, base.bound)
    underflown = 2 * int((view.candidate[wrong] == 0).sum()) > int(wrong.sum())
    if distinct < _TELLING and not underflown:
        return None
    for fmt in sorted(FORMATS.values(), key=lambda fmt: fmt.precision):
        if fmt.precision >= view.format.precision:
            continue
        stored = bool((fmt.round_array(values).astype(np.float64) == values).all())
        if not stored and not _of_probabilities(view, base.parts, fmt):
            continue
        # the logits themselves may have been rounded
        size = np.abs(np.where(np.isfinite(base.parts.z), base.parts.z, 0.0))
        moved = np.expm1(np.minimum(2 * fmt.unit_roundoff * (size + size.max(axis=1, keepdims=True)), 600.0))
        if distinct < _TELLING**4:
            moved = np.minimum(moved, 1.0)  # few numbers may be of the format by chance
        heavy = np.abs(base.parts.scale * base.parts.slope * base.parts.weight)
        limit = base.parts.bound(fmt) + heavy * base.parts.p * moved
        if distinct < _TELLING:
            # nothing but what underflows there
            limit = base.bound + 2 * fmt.unit_roundoff * np.abs(base.gradient) + fmt.smallest_subnormal
        if not view.is_gradient(base.gradient, limit):
            continue
        asked, wide = fmt is view.problem.format, view.format.name
        good = f"numbers of {fmt.name}, and as good as they can be there"
        if stored:
            evidence = f"all {values.size:,} components are {good}"
            fix = f"return them in {fmt.name}, or compute in {wide}" if asked else f"compute and store in {wide}"
        else:
            evidence = f"its probabilities are all {good}, but y was taken from them in {wide}"
            fix = f"make y in {fmt.name}, as np.eye(k, dtype=logits.dtype)" if asked else f"compute in {wide}"
        option = f"--gradient-dtype {fmt.name}" if asked else ""
        return Finding(cause="narrow-format", evidence=evidence, fix=fix, option=option)
    return None


def _of_probabilities(view: View, parts: Parts, fmt: Format) -> bool:
    """Whether a gradient is made of probabilities that are numbers of a format."""
    # formats of nearly one precision tell nothing: what the difference rounds hides whose numbers these were
    if fmt.unit_roundoff <= _FINER * view.format.unit_roundoff:
        return False
    made, label = parts.probabilities(view.candidate)[view.judged], parts.q[view.judged]
    rounding = 8 * view.format.unit_roundoff * (np.abs(made) + np.abs(label))
    return bool((np.abs(fmt.round_array(made).astype(np.float64) - made) <= rounding).all())


def isolated(view: View, base: Base) -> Finding | None:
    """One or two entries, or such of one kind, where everything else is right."""
    return _entries(view, base, scattered=False)


def scattered(view: View, base: Base) -> Finding | None:
    """A few entries, or one in each row, where everything else is right."""
    return _entries(view, base, scattered=True)


def _entries(view: View, base: Base, *, scattered: bool) -> Finding | None:
    wrong = ~view.near(base.gradient, base.bound)
    if base is view.own and not wrong.any():
        wrong = view.failed
    count = int(wrong.sum())
    if not count or wrong[view.ignored].any() or 2 * count > wrong.size:
        return None
    each = wrong.sum(axis=1)
    if each.max() > 1 and count > _FEW:
        return None
    true = view.at_labels(wrong)
    gone = (view.candidate[wrong] == 0).all()
    if true[view.judged].all() and count == view.judged.sum() > 1 and not gone:
        return None  # that is not by chance
    # they stand out from the others of their rows
    of_bound = np.abs(view.candidate - base.gradient) / base.bound
    others = np.where(wrong | ~wrong.any(axis=1, keepdims=True), 0.0, of_bound)
    if others.max() > 0.75 and of_bound[wrong].min() < 16 * others.max():
        return None
    rows, classes = np.nonzero(wrong)
    where = f"row {{row}}, class {classes[0]}" + (" first" if count > 1 else "")
    pattern = ""
    if count > 1 and (classes == classes[0]).all():
        pattern = f", all in class {classes[0]}"
    elif count > 1 and base.parts is not None and (classes == np.argmax(base.parts.z, axis=1)[rows]).all():
        pattern = ", all in the class of the largest logit"
    zeros = ", all of them 0" if gone else ""
    if count > _PAIR or 8 * count > wrong.size:
        if not (scattered or pattern or zeros):
            return None
        pattern = pattern or (", all at the true class" if true.sum() == count else "")
    return Finding(
        cause="isolated-entries",
        evidence=f"{many(wrong, 'component')} of {wrong.size:,} wrong ({where}){pattern}{zeros}, the others right",
        fix="look at how these entries are written",
        rows=(int(rows[0]),),
    )


def rows_zeroed(view: View, base: Base) -> Finding | None:
    """Whole rows that are 0."""
    wrong = np.asarray((~view.near(base.gradient, base.bound)).any(axis=1))
    if not wrong.any() or (wrong & view.judged).all() or view.candidate[wrong].any():
        return None
    size = np.abs(base.gradient).max(axis=1)
    others = size[~wrong & view.judged & view.candidate.any(axis=1)]
    largest = float(size[wrong].max())
    small = bool(others.size) and largest < others.min()
    return Finding(
        cause="isolated-entries",
        evidence=f"{many(wrong, 'row')} of {int(view.judged.sum()):,}"
        + (f", those below {brief(largest)}," if small else "")
        + f" {'is' if wrong.sum() == 1 else 'are'} 0 throughout (row {{row}} first), the others right",
        fix="do not drop small components: together they count" if small else "look at how these rows are written",
        rows=(int(np.argmax(wrong)),),
    )


def some_rows(view: View, base: Base) -> Finding | None:
    """Some rows that have one factor, or the opposite sign."""
    wrong = np.asarray((~view.near(base.gradient, base.bound)).any(axis=1))
    if not wrong.any() or (wrong | ~view.judged).all() or wrong[view.ignored].any() or view.problem.classes < 3:
        return None
    size = np.where(wrong[:, None], base.size, 0.0)
    place = np.unravel_index(np.argmin(resolution(size, base.bound)), size.shape)
    factor = float(view.candidate[place] / base.gradient[place]) if size[place] else 0.0
    if not factor or not np.isfinite(factor) or abs(factor - 1) < 64 * view.format.unit_roundoff:
        return None
    factors = np.where(wrong, factor, 1.0)[:, None]
    bound = np.abs(factors) * (base.bound + view.format.unit_roundoff * size) + view.format.smallest_subnormal
    if not view.is_gradient(base.gradient * factors, bound):
        return None
    opposite = abs(factor + 1) * size[place] <= 2 * bound[place]
    what = "the opposite of what is due" if opposite else f"{times(factor)} what is due"
    return Finding(
        cause="sign" if opposite else "mixed" if factor < 0 else "scaled",
        evidence=f"{many(wrong, 'row')} of {int(view.judged.sum()):,} (row {{row}} first) "
        f"{'is' if wrong.sum() == 1 else 'are'} {what}, the others right",
        fix="look at what is done to these rows alone",
        rows=(int(np.argmax(wrong)),),
    )


def row_factors(view: View, base: Base) -> Finding | None:
    """Every row has a factor of its own."""
    size = base.size
    top = np.argmax(size, axis=1)
    at = (np.arange(len(top)), top)
    usable = view.judged & (size[at] > 0)
    if usable.sum() < 2 or not np.isfinite(view.candidate[usable]).all():
        return None
    factors = np.where(usable, view.candidate[at] / np.where(size[at] > 0, base.gradient[at], 1.0), 1.0)[:, None]
    if not view.is_gradient(base.gradient * factors, base.bound * np.maximum(1.0, np.abs(factors))):
        return None
    found = factors[usable, 0]
    if (found <= 0).any() or view.problem.classes < 3:
        return None  # two classes have one number to a row: whatever is wrong is a factor
    if np.ptp(found) <= 64 * view.format.unit_roundoff * np.abs(found).max():
        return None  # one factor, which is another finding
    labels, step = view.problem.labels, 64 * view.format.unit_roundoff * np.abs(found).max()
    parts = 1 + int((np.abs(np.diff(found)) > step).sum())
    if labels.ndim == 1 and 2 * parts > len(found) and len(np.unique(labels[usable])) > 1:
        by_class = {int(label): found[labels[usable] == label] for label in np.unique(labels[usable])}
        repeated = sum(len(values) for values in by_class.values() if len(values) > 1)
        by_label = 2 * repeated >= len(found) and sum(len(values) > 1 for values in by_class.values()) > 1
        if by_label and all(
            np.ptp(values) <= 64 * view.format.unit_roundoff * values.max() for values in by_class.values()
        ):
            label, values = next(iter(by_class.items()))
            given = view.problem.terms.weight is not None
            return Finding(
                cause="other-convention" if given else "option-extra",
                evidence=f"each row has a factor of its class, {brief(float(values[0]))} for class {label}",
                fix="apply class weights once" if given else "leave class weights out, or check with them",
            )
    return Finding(
        cause="scaled",
        evidence=f"each row has a factor of its own, from {brief(float(found.min()))} to {brief(float(found.max()))}",
        fix="divide all rows by one number; a mean of parts' means is another mean",
    )


def inaccurate_exp(view: View, base: Base) -> Finding | None:
    """A relative error of exp that is a function of the distance below the maximum, the same in all rows."""
    if base.parts is None:
        return None
    own = base.parts
    probabilities = own.probabilities(view.candidate)
    # where a label's weight does not drown what is told
    blur = 4 * view.format.unit_roundoff * np.abs(own.q / own.weight) + view.format.smallest_subnormal
    usable = view.judged[:, None] & (own.p > 64 * blur) & np.isfinite(own.gap)
    gone = usable & (probabilities <= 0)
    usable &= ~gone
    if usable.sum() < _FEW:
        return None
    if gone.any() and np.quantile(own.gap[gone], _ROUGH) < np.quantile(own.gap[usable], 1 - _ROUGH):
        return None  # an exp that ends in 0 does so past some distance
    # what the sum does is the same for all of a row
    rows = np.arange(len(own.p))
    top = np.argmax(own.p, axis=1)
    ratios = np.log(probabilities / own.p) - np.log(probabilities / own.p)[rows, top][:, None]
    order = np.argsort(own.gap[usable])
    gaps, found = own.gap[usable][order], ratios[usable][order]
    between = np.interp(gaps[1:-1:2], gaps[::2], found[::2])
    error = own.softmax_error(view.format)[usable].max() + (blur / own.p)[usable][order][1:-1:2]
    smooth = np.abs(between - found[1:-1:2]) <= _ROUGH * np.abs(found).max() + 4 * error
    worst = float(found[np.argmax(np.abs(found))])
    if abs(worst) < 64 * view.format.unit_roundoff or smooth.mean() < 1 - _ROUGH:
        return None
    return Finding(
        cause="inaccurate-exp",
        evidence="every probability is off by the same function of the distance below the maximum, up to a factor of "
        f"{brief(math.exp(worst))}",
        fix="use an exp that is accurate over its whole range",
    )


def one_entry(view: View, base: Base) -> Finding | None:
    """A single entry, or two."""
    few = int((~view.near(base.gradient, base.bound)).sum()) <= _PAIR
    return isolated(view, base) if few else None


EARLY: tuple[Effect, ...] = (empty_mean, ignored_rows, uncountable, flushed, zeros, transposed, constant)
"""What is likelier than another question."""
LATE: tuple[Effect, ...] = (masked, quotient, unshifted, misshifted, clipped, narrow, scaled)
"""What is less likely, the likelier first."""


def cancelled(view: View) -> Finding | None:
    """Digits lost at the true class, or in the slope of a cap, that `stable` forgives."""
    own, u = view.parts, view.format.unit_roundoff
    size = np.where(own.scale == 0, 1.0, np.abs(own.scale)) * np.abs(own.q).max(axis=1, keepdims=True)
    errors = (np.abs(view.candidate - view.own.gradient) / size)[view.failed]
    true = np.zeros_like(view.failed)
    true[np.arange(len(true)), view.labels()] = True
    if (view.failed & ~true).any():
        if view.problem.terms.softcap is None:
            return None
        return Finding(
            cause="cancellation",
            evidence=f"{many(view.failed, 'component')} off by what 1 − tanh² loses in {view.format.name}",
            fix="compute the slope as 1/cosh²",
        )
    worst = float(errors.max())
    if worst > 3 * u:
        return None  # more than subtracting 1 loses
    return Finding(
        cause="cancellation",
        evidence=f"only the true class is wrong, in {many(view.failed, 'row')}, by up to {brief(worst / u / 2)} ulp "
        "of 1: p − 1 where p is close to 1",
        fix="compute it as minus the sum of the others, or subtract before rounding",
    )
