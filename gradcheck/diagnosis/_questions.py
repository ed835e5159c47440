"""Other questions: labels, loss options and softmaxes that the candidate may have meant. Each makes a `Base`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from gradcheck import losses, text
from gradcheck.diagnosis._view import Base, Finding, Parts, View, parts
from gradcheck.exceptions import GradcheckError
from gradcheck.formats import FORMATS, Array
from gradcheck.problem import Problem, Stage


@np.errstate(all="ignore")
def asked(view: View) -> Iterator[Base]:
    """Other labels, and other readings of the options that are given."""
    for ask in (_labels, _options, _conventions):
        yield from ask(view)


@np.errstate(all="ignore")
def strange(view: View) -> Iterator[Base]:
    """Options that are not given, and other functions than softmax."""
    for ask in (_softmaxes, _quotients, _narrow_labels, _unasked):
        yield from ask(view)


def _altered(view: View, finding: Finding, **fields: object) -> Iterator[Base]:
    """The base of a problem with other fields, if that is one."""
    try:
        problem = dataclasses.replace(view.problem, **fields)  # type: ignore[arg-type]
    except GradcheckError:
        return
    yield view.base(finding, parts(problem))


def _labels(view: View) -> Iterator[Base]:
    """Labels left out, shifted, permuted, predicted."""
    own, problem = view.parts, view.problem
    finding = Finding(
        cause="labels-omitted",
        evidence="every component is that of ŷ alone",
        fix="subtract the labels: the gradient is ŷ − y",
    )
    for weight in (own.weight, np.ones_like(own.weight)):
        yield view.base(finding, dataclasses.replace(own, q=np.zeros_like(own.q), weight=weight))
    for shift in (1, -1):
        finding = Finding(
            cause="labels-permuted",
            evidence=f"every row is right for the label of the row {'before' if shift == 1 else 'after'} it",
            fix="keep rows and labels in one order",
        )
        yield from _altered(view, finding, labels=np.roll(problem.labels, shift, axis=0))
    if problem.labels.ndim == 1:
        for shift in (1, -1):
            finding = _off_by(f"its label {shift:+d}")
            moved = np.where(problem.terms.kept, (problem.labels + shift) % problem.classes, problem.labels)
            yield from _altered(view, finding, labels=moved)
        yield from _other_classes(view)
        return
    for shift in (1, -1):
        finding = _off_by(f"its labels moved by {shift:+d} class")
        yield from _altered(view, finding, labels=np.roll(problem.labels, shift, axis=1))


def _off_by(what: str) -> Finding:
    return Finding(
        cause="labels-shifted",
        evidence=f"every row is right for {what}",
        fix="count the classes from 0 on both sides",
    )


def _other_classes(view: View) -> Iterator[Base]:
    """The labels that the gradient itself tells: where y is subtracted."""
    own = view.parts
    inner = np.where(np.isfinite(view.candidate), view.candidate / own.unit, np.inf)
    # what multiplies p, where the label's weight is not known, told by the classes that matter most
    top = np.argsort(-own.p, axis=1)[:, :3]
    spread = np.array([float(share) for share in view.problem.terms.spread])[:, None]
    weight = np.ones(view.problem.classes) if view.problem.terms.weight is None else view.problem.terms.weight
    told = (np.take_along_axis(inner, top, 1) + spread * weight[top]) / np.take_along_axis(own.p, top, 1)
    seen: set[bytes] = set()
    for factor in (own.weight, np.median(told, axis=1, keepdims=True)):
        classes = np.where(view.judged, np.argmin(inner - factor * own.p, axis=1), view.problem.labels)
        if classes.tobytes() not in seen:
            seen.add(classes.tobytes())
            yield from _told_classes(view, classes)


def _told_classes(view: View, told: Array) -> Iterator[Base]:
    own, problem = view.parts, view.problem
    moved = view.judged & (told != problem.labels)
    if not moved.any():
        return
    apart = (told - problem.labels)[view.judged] % problem.classes
    where = f"{text.count(int(moved.sum()), 'row')} of {int(view.judged.sum()):,} right for another label"
    if (apart == apart[0]).all() and len(apart) > 1:
        shift = int(apart[0]) if apart[0] <= problem.classes // 2 else int(apart[0]) - problem.classes
        finding = _off_by(f"its label {shift:+d}")
    elif (told == np.argmax(np.where(np.isnan(own.z), -np.inf, own.z), axis=1))[view.judged].all():
        finding = Finding(
            cause="labels-permuted",
            evidence=f"{where}: that of its largest logit, in every row",
            fix="subtract the label, not the prediction",
        )
    else:
        first = int(np.argmax(moved))
        finding = Finding(
            cause="labels-permuted",
            evidence=f"{where}; row {{row}} for {int(told[first])}, not {int(problem.labels[first])}",
            fix="keep rows and labels in one order",
            rows=(first,),
        )
    yield from _altered(view, finding, labels=told.astype(np.int64))


def _without(problem: Problem, name: str) -> tuple[object, ...]:
    return tuple(option for option in problem.loss if option.name != name)


def _options(view: View) -> Iterator[Base]:
    """Options that are asked for, and may have been left out, whole or in part."""
    problem, own = view.problem, view.parts
    for option in problem.loss:
        if option.stage in (Stage.LAYOUT, Stage.ROWS, Stage.MEAN) or option.idle(problem.labels):
            continue
        finding = Finding(
            cause="option-missing",
            evidence=f"every component is right without {option.name}={option.value}",
            fix=f"apply {option.name}, or leave it out of the check",
            option=f"without --loss {option.name}={option.value}",
        )
        yield from _altered(view, finding, loss=_without(problem, option.name))
    terms = problem.terms
    if terms.softcap is not None:
        finding = Finding(
            cause="option-missing",
            evidence="every component is right without the slope of the softcap",
            fix="multiply by 1 − tanh²(l/c), the derivative of the cap",
        )
        yield view.base(finding, dataclasses.replace(own, slope=np.full_like(own.slope, 1 / float(terms.temperature))))
    if terms.temperature != 1:
        finding = Finding(
            cause="option-missing",
            evidence=f"every component is {text.brief(float(terms.temperature))} times what is due: 1/T is left out",
            fix="divide the gradient by the temperature, as the logits are",
        )
        yield view.base(finding, dataclasses.replace(own, slope=own.slope * float(terms.temperature)))
    if any(factor != terms.upstream[0] for factor in terms.upstream):
        finding = Finding(
            cause="option-missing",
            evidence=f"every row is multiplied by the first row's gradient from above, {float(terms.upstream[0]):g}",
            fix="multiply each row by its own gradient from above",
        )
        same = dataclasses.replace(terms, upstream=(terms.upstream[0],) * terms.rows)
        yield view.base(finding, parts(problem, same))


def _conventions(view: View) -> Iterator[Base]:
    """What another library means by the same options."""
    problem, own, terms = view.problem, view.parts, view.problem.terms
    if problem.labels.ndim == 2 or terms.weight is not None:
        yield view.base(
            Finding(
                cause="other-convention",
                evidence="every component is that of ŷ − y, though the labels do not sum to 1",
                fix="multiply ŷ by the sum of the row's label weights",
            ),
            dataclasses.replace(own, weight=np.ones_like(own.weight)),
        )
    given = {option.name: option.value for option in problem.loss}
    texts = [
        ("reduction", f"mean:{kind}") for kind in ("count", "rows", "weights") if "mean" in given.get("reduction", "")
    ]
    smoothing = given.get("label_smoothing", "")
    if smoothing:
        texts.append(
            ("label_smoothing", smoothing.removesuffix(":others") if ":" in smoothing else f"{smoothing}:others")
        )
    for name, value in texts:
        finding = Finding(
            cause="other-convention",
            evidence=f"every component is right under {name}={value}",
            fix=f"use {name}={value} on both sides, or {name}={given[name]}",
            option=f"--loss {name}={value}",
        )
        try:
            yield from _altered(view, finding, loss=(*_without(problem, name), *losses.parse([f"{name}={value}"])))
        except GradcheckError:
            continue
    if any(terms.spread):
        for shards in (2, 4, 8, 16):
            finding = Finding(
                cause="other-convention",
                evidence=f"smoothing gives each class {shards} times its share, that of 1 of {shards} shards",
                fix="spread over all classes, not over those of one device",
            )
            more = dataclasses.replace(terms, spread=tuple(shards * share for share in terms.spread))
            yield view.base(finding, parts(problem, more))
        if terms.weight is not None:
            share = np.array([float(share) for share in terms.spread])[:, None]
            q = own.q + share * (1 - terms.weight)
            finding = Finding(
                cause="other-convention",
                evidence="the uniform part of smoothing is not weighted by class",
                fix="multiply (1 − ε)·y + ε/K by the class weights, both terms of it",
            )
            weight = own.weight - own.q.sum(axis=1, keepdims=True) + q.sum(axis=1, keepdims=True)
            yield view.base(finding, dataclasses.replace(own, q=q, weight=weight))
    if terms.zeta:
        yield from _other_z_losses(view)
    if terms.softcap is not None:
        yield from _other_caps(view)
        logits, cap = terms.logits.astype(np.float64), float(terms.softcap)
        ratio, temperature = logits / cap, float(terms.temperature)
        z = np.where(np.isneginf(logits), logits, logits * np.tanh(ratio) / temperature)
        slope = (np.tanh(ratio) + ratio / np.cosh(np.minimum(np.abs(ratio), 300.0)) ** 2) / temperature
        finding = Finding(
            cause="other-convention",
            evidence="every component is right for l·tanh(l/c)",
            fix="cap by c·tanh(l/c)",
        )
        yield view.base(finding, dataclasses.replace(own, z=z, slope=np.where(np.isfinite(slope), slope, 0.0)))
        masked = np.isneginf(own.z)
        if masked.any():
            finding = Finding(
                cause="other-convention",
                evidence=f"{text.count(int(masked.sum()), 'mask')} of -inf became {-cap:g} under the cap",
                fix="mask again after the cap",
            )
            yield view.base(finding, dataclasses.replace(own, z=np.where(masked, -cap / temperature, own.z)))


_CAPS = (5, 10, 15, 20, 30, 50, 100)
"""Softcaps that are in use."""


def _other_caps(view: View) -> Iterator[Base]:
    terms = view.problem.terms
    assert terms.softcap is not None
    for cap in _CAPS:
        if cap != terms.softcap:
            finding = Finding(
                cause="other-convention",
                evidence=f"every component is right for softcap={cap}",
                fix=f"cap at {float(terms.softcap):g}, or check with softcap={cap}",
                option=f"--loss softcap={cap}",
            )
            yield view.base(finding, parts(view.problem, dataclasses.replace(terms, softcap=Fraction(cap))))
    if terms.temperature != 1:
        finding = Finding(
            cause="other-convention",
            evidence="every component is right where the temperature divides first, and the cap comes afterwards",
            fix="cap the logits, then divide by the temperature",
        )
        swapped = dataclasses.replace(terms, softcap=terms.softcap * terms.temperature)
        yield view.base(finding, parts(view.problem, swapped))


def _other_z_losses(view: View) -> Iterator[Base]:
    own = view.parts
    plain = own.q.sum(axis=1, keepdims=True)
    added = own.weight - plain
    kept = view.judged
    if not kept.any():
        return
    means: tuple[tuple[Array, str], ...] = (
        (
            np.full_like(added, added[kept].mean()),
            "the square of the mean of lse, where the mean of the squares is due",
        ),
        (added * kept.mean(), "a mean over all rows, the cross-entropy over those that are kept"),
    )
    terms = view.problem.terms
    if terms.softcap is not None:
        uncapped = parts(view.problem, dataclasses.replace(terms, softcap=None))
        means += ((uncapped.weight - uncapped.q.sum(axis=1, keepdims=True), "that of the logits before the cap"),)
    for instead, evidence in means:
        finding = Finding(
            cause="other-convention",
            evidence=f"the z-loss is {evidence}",
            fix="add λ·lse² of the transformed logits to each row, before the mean",
        )
        yield view.base(finding, dataclasses.replace(own, weight=plain + instead))


def _unasked(view: View) -> Iterator[Base]:
    """Options that are not asked for, or have another value, with what the gradient itself tells of it."""
    problem = view.problem
    for name, tell in (("z_loss", _z_loss), ("label_smoothing", _smoothing), ("temperature", _temperature)):
        try:
            bare = parts(dataclasses.replace(problem, loss=_without(problem, name)))  # type: ignore[arg-type]
        except GradcheckError:
            continue
        with np.errstate(all="ignore"):
            yield from _with_option(view, name, tell(view, bare))
    if problem.terms.softcap is None:
        for cap in _CAPS:
            yield from _with_option(view, "softcap", cap)
    if problem.labels.ndim == 1 and all(option.name != "ignore_index" for option in problem.loss):
        zero = view.judged & (view.candidate == 0).all(axis=1)
        labels = np.unique(problem.labels[zero])
        if labels.size == 1 and (zero == (view.judged & (problem.labels == labels[0]))).all() and not zero.all():
            yield from _with_option(view, "ignore_index", int(labels[0]))


def _z_loss(view: View, bare: Parts) -> float:
    return _told(view.candidate - bare.gradient, 2 * bare.scale * bare.slope * bare.lse() * bare.p)


def _smoothing(view: View, bare: Parts) -> float:
    uniform = bare.q.sum(axis=1, keepdims=True) / view.problem.classes
    return _told(view.candidate - bare.gradient, bare.scale * bare.slope * (bare.q - uniform))


def _told(residual: Array, per: Array) -> float:
    """The factor that turns one into the other where that is largest."""
    place = np.unravel_index(np.argmax(np.where(np.isfinite(per), np.abs(per), 0.0)), per.shape)
    return float(f"{residual[place] / per[place]:.4g}") if per[place] else 0.0


_NONE = 0.01
"""A difference between temperatures that rounding may be."""
_LEAST = 1e-4
"""How small a component may be, beside the largest of its row, that still tells a temperature."""


def _temperature(view: View, bare: Parts) -> float:
    """What two components of one row without labels tell by their ratio, which is exp of their distance over T."""
    inner = np.where((bare.q == 0) & (bare.scale != 0), view.candidate / bare.scale, 0.0)
    inner = np.where(np.isfinite(inner), inner, 0.0)
    high = inner.argmax(axis=1)
    rows = np.arange(len(inner))
    far = np.where(inner > _LEAST * inner[rows, high][:, None], -bare.z, -np.inf).argmax(axis=1)
    apart = bare.z[rows, high] - bare.z[rows, far]
    row = int(np.argmax(np.where(np.isfinite(apart), apart, 0.0)))
    told = apart[row] / np.log(inner[row, high[row]] / inner[row, far[row]])
    if not np.isfinite(told) or abs(told / float(view.problem.terms.temperature) - 1) < _NONE:
        return 0.0
    return float(f"{told:.4g}")


_MOST = {"z_loss": 10.0, "label_smoothing": 1.0, "temperature": 100.0}


def _with_option(view: View, name: str, value: float) -> Iterator[Base]:
    if name in _MOST and not 0 < value < _MOST[name]:
        return
    given = next((option.value for option in view.problem.loss if option.name == name), None)
    try:
        option = losses.parse([f"{name}={value!r}"])
    except GradcheckError:
        return
    if given is None:
        cause, instead, fix = "option-extra", "which is not asked for", f"leave {name} out, or check with it"
    else:
        cause, instead = "other-convention", f"not {given}"
        fix = f"use {name}={given}, or check with {name}={value!r}"
    finding = Finding(
        cause=cause,
        evidence=f"every component is right with {name}={value!r}, {instead}",
        fix=fix,
        option=f"--loss {name}={value!r}",
    )
    yield from _altered(view, finding, loss=(*_without(view.problem, name), *option))


def _quotients(view: View) -> Iterator[Base]:
    """The gradient with respect to the probabilities, with and without the transform's slope."""
    own, fmt = view.parts, view.format
    finding = Finding(
        cause="wrt-probabilities",
        evidence="every component is −y/ŷ",
        fix="go on by the chain rule, or use ŷ − y: this is the gradient with respect to the probabilities",
    )
    due = (own.q != 0) & (own.scale != 0)
    p = _rounded(view)
    size = np.where(due, own.scale * own.q / p, 0.0)
    error = 2 * own.softmax_error(fmt) + 2 * fmt.smallest_subnormal / np.maximum(p, fmt.smallest_subnormal)
    for slope in (np.ones_like(own.slope), own.slope):
        gradient = -size * slope
        yield Base(
            finding=finding,
            gradient=np.where(np.abs(gradient) > fmt.max, np.copysign(np.inf, gradient), gradient),
            bound=np.where(due, np.abs(gradient) * error + np.abs(size) * own.slope_error(fmt), 0.0),
        )
    yield view.base(
        Finding(
            cause="wrt-probabilities",
            evidence="every component is −y, and ŷ is left out: the gradient with respect to log ŷ",
            fix="add ŷ: the gradient with respect to the logits is ŷ − y",
        ),
        dataclasses.replace(own, weight=np.zeros_like(own.weight)),
    )


def _rounded(view: View) -> Array:
    """The probabilities as the format holds them, 0 in rows that are not judged."""
    return view.problem.format.round_array(np.where(view.judged[:, None], view.parts.p, 0.0)).astype(np.float64)


def _softmaxes(view: View) -> Iterator[Base]:
    """Functions that are taken for the softmax of each row."""
    own = view.parts
    yield view.base(
        Finding(
            cause="softmax-twice",
            evidence="every component is right for the softmax of the softmax",
            fix="hand the logits to the loss, not the probabilities",
        ),
        _on(own, _rounded(view)),
    )
    sigmoid = 1 / (1 + np.exp(-own.z))
    u = view.format.unit_roundoff
    yield Base(
        finding=Finding(
            cause="other-convention",
            evidence="every component is σ(l) − y, the gradient of binary cross-entropy",
            fix="use the softmax over classes, or check another loss",
        ),
        gradient=own.scale * own.slope * (own.weight * sigmoid - own.q),
        bound=np.abs(own.scale * own.slope)
        * u
        * (8 * np.abs(own.weight) * sigmoid * (1 + np.abs(own.z)) + 4 * np.abs(own.q))
        + np.abs(own.scale * (own.weight * sigmoid - own.q)) * own.slope_error(view.format)
        + view.format.smallest_subnormal,
    )
    if view.problem.rows > 1:
        columns = own.z - own.z.max(axis=0, keepdims=True)
        yield view.base(
            Finding(
                cause="wrong-row-max",
                evidence="every component is right where each class is shifted by its maximum over the rows",
                fix="take the maximum over the classes of each row",
            ),
            _on(own, view.problem.format.round_array(columns).astype(np.float64)),
            lost=view.problem.format.smallest_subnormal,
        )
        down = np.exp(columns) / np.exp(columns).sum(axis=0, keepdims=True)
        error = u * (3 * np.abs(np.where(np.isfinite(columns), columns, 0.0)) + 8 + 2 * np.log(view.problem.rows))
        yield Base(
            finding=Finding(
                cause="transposed",
                evidence="every component is right for a softmax over the rows of each class",
                fix="take the softmax over the classes",
            ),
            gradient=own.scale * own.slope * (own.weight * down - own.q),
            bound=np.abs(own.scale * own.slope) * (np.abs(own.weight) * down * error + 4 * u * np.abs(own.q))
            + np.abs(own.scale * (own.weight * down - own.q)) * own.slope_error(view.format)
            + view.format.smallest_subnormal,
        )
    masked = np.isneginf(own.z)
    if masked.any():
        ended = np.where(np.cumsum(masked, axis=1) > 0, -np.inf, own.z)
        yield view.base(
            Finding(
                cause="masked-nan",
                evidence="every component is right where the first -inf ends its row",
                fix="let masks stand anywhere in a row",
            ),
            _on(own, ended),
        )


def _on(own: Parts, z: Array) -> Parts:
    return dataclasses.replace(own, z=np.asarray(z, dtype=np.float64))


def _narrow_labels(view: View) -> Iterator[Base]:
    """Soft labels that passed through a narrower format."""
    if view.problem.labels.ndim == 1:
        return
    for fmt in FORMATS.values():
        if fmt.precision >= view.problem.format.precision:
            continue
        labels = view.problem.labels.astype(fmt.dtype).astype(view.problem.labels.dtype)
        finding = Finding(
            cause="narrow-format",
            evidence=f"every component is right for labels rounded to {fmt.name}",
            fix=f"keep the labels in {view.problem.format.name}",
        )
        yield from _altered(view, finding, labels=labels)
