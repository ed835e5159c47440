"""Loss options: forgotten, applied unasked, or with another library's meaning."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from gradcheck import closed_form, losses
from gradcheck.candidates import compensated, shifted
from gradcheck.closed_form import Parts
from gradcheck.formats import Array
from gradcheck.mistakes import Planted, Sign, altered, reweighed, value_of, without
from gradcheck.problem import Problem


def _finished(problem: Problem, found: Parts) -> Array:
    """The gradient from parts of which one is wrong."""
    return closed_form.assembled(problem, found, shifted.softmax, problem.format)


def _parts(problem: Problem) -> Parts:
    return closed_form.parts(problem, problem.format)


def _smoothing_of_a_shard(problem: Problem) -> Array:
    terms = problem.terms
    return compensated.gradient(
        reweighed(problem, dataclasses.replace(terms, spread=tuple(2 * share for share in terms.spread)))
    )


def _smoothing_over_others(problem: Problem) -> Array:
    value = value_of(problem, "label_smoothing")
    if value is None or ":" in value:
        return compensated.gradient(problem)
    others = without(problem, "label_smoothing")
    return compensated.gradient(
        altered(others, loss=(*others.loss, *losses.parse([f"label_smoothing={value}:others"])))
    )


def _smoothing_of_ignored_rows(problem: Problem) -> Array:
    terms, gradient = problem.terms, compensated.gradient(problem)
    share = np.array([float(share) for share in terms.spread])[:, None]
    divisor = float(terms.divisor or 1)
    found = _parts(problem)
    p = shifted.softmax(found.z, problem.format).astype(np.float64)
    uniform = (share * problem.classes * p - share) / divisor
    return np.where(terms.kept[:, None], gradient, uniform.astype(gradient.dtype))


def _smoothing_unweighted(problem: Problem) -> Array:
    terms, found = problem.terms, _parts(problem)
    if terms.weight is None or found.true is not None:
        return compensated.gradient(problem)
    share = np.array([float(share) for share in terms.spread])[:, None]
    labels = (found.labels + share * (1 - terms.weight)).astype(found.labels.dtype)
    return _finished(problem, dataclasses.replace(found, labels=labels, weight=labels.sum(axis=1, keepdims=True)))


def _weights_not_in_mean(problem: Problem) -> Array:
    terms = problem.terms
    if not terms.divisor:
        return compensated.gradient(problem)
    return compensated.gradient(reweighed(problem, dataclasses.replace(terms, divisor=Fraction(int(terms.kept.sum())))))


def _z_loss_unasked(problem: Problem) -> Array:
    terms = problem.terms
    if terms.zeta:
        return compensated.gradient(problem)
    return compensated.gradient(reweighed(problem, dataclasses.replace(terms, zeta=Fraction(1, 10_000))))


def _z_part(problem: Problem) -> Array:
    """2ζ·lse of each row, (N, 1)."""
    return np.asarray(_parts(problem).weight - _parts(without(problem, "z_loss")).weight)


def _z_loss_of_mean(problem: Problem) -> Array:
    found, kept = _parts(problem), problem.terms.kept
    if not problem.terms.zeta or not kept.any():
        return compensated.gradient(problem)
    own = _z_part(problem)
    return _finished(problem, dataclasses.replace(found, weight=found.weight - own + own[kept].mean()))


def _z_loss_of_all_rows(problem: Problem) -> Array:
    found, kept = _parts(problem), problem.terms.kept
    if not problem.terms.zeta or problem.terms.divisor is None:
        return compensated.gradient(problem)
    own = _z_part(problem)
    weight = found.weight - own * found.weight.dtype.type(1 - kept.mean())
    return _finished(problem, dataclasses.replace(found, weight=weight))


def _softcap_slope_forgotten(problem: Problem) -> Array:
    if problem.terms.softcap is None:
        return compensated.gradient(problem)
    return _finished(problem, dataclasses.replace(_parts(problem), slope=np.ones((), problem.format.dtype)))


def _softcap_form(problem: Problem) -> Array:
    terms = problem.terms
    if terms.softcap is None:
        return compensated.gradient(problem)
    logits = terms.logits.astype(np.float64)
    ratio = logits / float(terms.softcap)
    z = np.where(np.isneginf(logits), logits, logits * np.tanh(ratio))
    slope = np.tanh(ratio) + ratio / np.cosh(ratio) ** 2
    dtype = problem.format.dtype
    return _finished(problem, dataclasses.replace(_parts(problem), z=z.astype(dtype), slope=slope.astype(dtype)))


def _softcap_lifts_masks(problem: Problem) -> Array:
    found, softcap = _parts(problem), problem.terms.softcap
    if softcap is None:
        return compensated.gradient(problem)
    z = np.where(np.isneginf(found.z), found.z.dtype.type(-float(softcap)), found.z)
    return _finished(problem, dataclasses.replace(found, z=z))


def _temperature_outside_forgotten(problem: Problem) -> Array:
    found, temperature = _parts(problem), float(problem.terms.temperature)
    slope = (found.slope.astype(np.float64) * temperature).astype(found.slope.dtype)
    return _finished(problem, dataclasses.replace(found, slope=slope))


def _softcap_fixed(problem: Problem) -> Array:
    terms = problem.terms
    if terms.softcap is None:
        return compensated.gradient(problem)
    return compensated.gradient(reweighed(problem, dataclasses.replace(terms, softcap=Fraction(30))))


def _softcap_after_temperature(problem: Problem) -> Array:
    terms = problem.terms
    if terms.softcap is None:
        return compensated.gradient(problem)
    # c·tanh(l/(cT)) is a cap of cT on l, divided by T
    return compensated.gradient(
        reweighed(problem, dataclasses.replace(terms, softcap=terms.softcap * terms.temperature))
    )


def _z_loss_uncapped(problem: Problem) -> Array:
    found = _parts(problem)
    if not problem.terms.zeta or problem.terms.softcap is None:
        return compensated.gradient(problem)
    uncapped = _z_part(without(problem, "softcap"))
    return _finished(problem, dataclasses.replace(found, weight=found.weight - _z_part(problem) + uncapped))


def _weights_of_ignored_rows(problem: Problem) -> Array:
    terms = problem.terms
    if not terms.divisor or terms.weight is None or terms.hard is None:
        return compensated.gradient(problem)
    left = sum((Fraction(float(terms.weight[0])) for kept in terms.kept.tolist() if not kept), Fraction(0))
    return compensated.gradient(reweighed(problem, dataclasses.replace(terms, divisor=terms.divisor + left)))


_FINE = ("float32", "float64")

MISTAKES = (
    Planted(
        name="smoothing-forgotten",
        cause="option-missing",
        reason="Label smoothing is asked for, and left out.",
        gradient=lambda problem: compensated.gradient(without(problem, "label_smoothing")),
        signs=(Sign(case="smoothing-plain"), Sign(case="smoothing-saturated")),
    ),
    Planted(
        name="smoothing-of-a-shard",
        cause="other-convention",
        reason="Smoothing spreads ε over the classes of one of two shards: each gets twice its share.",
        gradient=_smoothing_of_a_shard,
        signs=(Sign(case="smoothing-shard"),),
        sources=("NVIDIA/Megatron-LM#737", "NVIDIA/Megatron-LM#7464"),
    ),
    Planted(
        name="smoothing-over-others",
        cause="other-convention",
        reason="Smoothing of ε/(K − 1) over the others, where ε/K over all is asked for.",
        gradient=_smoothing_over_others,
        signs=(Sign(case="smoothing-plain"),),
    ),
    Planted(
        name="smoothing-of-ignored-rows",
        cause="ignored-rows",
        reason="The uniform part of smoothing is added in ignored rows, too.",
        gradient=_smoothing_of_ignored_rows,
        signs=(Sign(case="ignored-smoothing"), Sign(case="ignored-smoothing", by="ignored")),
        sources=("pytorch/pytorch#73205",),
    ),
    Planted(
        name="smoothing-unweighted",
        cause="other-convention",
        reason="Class weights multiply the label, and not the uniform part of smoothing.",
        gradient=_smoothing_unweighted,
        signs=(Sign(case="weighted-smoothing"),),
        sources=("pytorch/pytorch#61309",),
    ),
    Planted(
        name="weights-forgotten",
        cause="option-missing",
        reason="Class weights are asked for, and left out.",
        gradient=lambda problem: compensated.gradient(without(problem, "weight")),
        signs=(Sign(case="weighted-sum"),),
    ),
    Planted(
        name="weights-not-in-mean",
        cause="other-convention",
        reason="A weighted mean divides by the number of rows, not by their weights.",
        gradient=_weights_not_in_mean,
        signs=(Sign(case="weighted-mean"),),
        sources=("pytorch/pytorch#61309",),
    ),
    Planted(
        name="z-loss-forgotten",
        cause="option-missing",
        reason="A z-loss is asked for, and left out.",
        gradient=lambda problem: compensated.gradient(without(problem, "z_loss")),
        signs=(Sign(case="z-loss-offset"),),
    ),
    Planted(
        name="z-loss-unasked",
        cause="option-extra",
        reason="A z-loss of 1e-4 that stays on when it is off: at ordinary logits half formats round it away.",
        gradient=_z_loss_unasked,
        signs=(
            Sign(case="offset-plus-1e4"),
            Sign(case="plain-10", formats=_FINE),
            Sign(case="plain-10", by="total", formats=_FINE),
        ),
        sources=("allenai/OLMo-core#702",),
    ),
    Planted(
        name="z-loss-of-mean",
        cause="other-convention",
        reason="The square of the mean of lse, where the mean of the squares is due.",
        gradient=_z_loss_of_mean,
        signs=(Sign(case="z-loss-offset"),),
        sources=("mlfoundations/open_lm#92",),
    ),
    Planted(
        name="z-loss-of-all-rows",
        cause="other-convention",
        reason="The z-loss is a mean over all rows, the cross-entropy over those that are kept.",
        gradient=_z_loss_of_all_rows,
        signs=(Sign(case="z-loss-mean-ignored", formats=("float16", *_FINE)),),
    ),
    Planted(
        name="softcap-slope-forgotten",
        cause="option-missing",
        reason="The logits are capped, and the gradient is not multiplied by the cap's slope.",
        gradient=_softcap_slope_forgotten,
        signs=(Sign(case="softcap-plain"),),
    ),
    Planted(
        name="softcap-form",
        cause="other-convention",
        reason="l·tanh(l/c) in place of c·tanh(l/c): nothing is capped.",
        gradient=_softcap_form,
        signs=(Sign(case="softcap-plain"),),
        sources=("unslothai/unsloth-zoo#593",),
    ),
    Planted(
        name="softcap-lifts-masks",
        cause="other-convention",
        reason="The cap makes −c of a mask of −inf, and padding gains probability.",
        gradient=_softcap_lifts_masks,
        # bfloat16 rounds what is capped so coarsely that this is within its bound
        signs=(Sign(case="softcap-padding", formats=("float16", *_FINE)),),
        sources=("unslothai/unsloth#10616",),
    ),
    Planted(
        name="softcap-fixed",
        cause="other-convention",
        reason="The cap is 30, whatever is asked for.",
        gradient=_softcap_fixed,
        signs=(Sign(case="softcap-plain", formats=("float16", *_FINE)),),
    ),
    Planted(
        name="softcap-after-temperature",
        cause="other-convention",
        reason="The logits are divided by T first, and capped afterwards.",
        gradient=_softcap_after_temperature,
        signs=(Sign(case="combined-softcap-temperature"),),
    ),
    Planted(
        name="z-loss-uncapped",
        cause="other-convention",
        reason="The z-loss is that of the logits before the cap.",
        gradient=_z_loss_uncapped,
        signs=(Sign(case="combined-softcap-z-loss"),),
    ),
    Planted(
        name="weights-of-ignored-rows",
        cause="scaled",
        reason="The mean's divisor counts ignored rows, by the weight of class 0.",
        gradient=_weights_of_ignored_rows,
        signs=(Sign(case="combined-weight-ignored"),),
    ),
    Planted(
        name="softcap-slope-cancelled",
        cause="cancellation",
        reason="1 − tanh² for sech²: no digits are left beyond the cap, which stable forgives.",
        gradient=shifted.gradient,
        signs=(Sign(case="softcap-beyond", by="ulp:4", formats=("bfloat16", *_FINE)),),
    ),
    Planted(
        name="temperature-outside-forgotten",
        cause="option-missing",
        reason="The logits are divided by T, and the gradient is not.",
        gradient=_temperature_outside_forgotten,
        signs=(Sign(case="temperature-low"), Sign(case="temperature-high")),
    ),
    Planted(
        name="mask-forgotten",
        cause="option-missing",
        reason="Classes that a mask takes out are summed with the others.",
        gradient=lambda problem: compensated.gradient(without(problem, "mask")),
        signs=(Sign(case="masked-by-option"),),
    ),
)
