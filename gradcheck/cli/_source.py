"""From the options of a `Source` to a problem. Only running commands import this: it pulls in all that is heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from gradcheck import candidates, catalogue, distributions, files, formats, losses
from gradcheck.batch import Batch
from gradcheck.candidates import Candidate
from gradcheck.cli._options import Source
from gradcheck.exact import Texts, whole
from gradcheck.exceptions import InputError, RowError, UsageError
from gradcheck.formats import Array, Format, Int64
from gradcheck.problem import Problem
from gradcheck.stored import Rows, blocks


def load(
    logits: str | None,
    source: Source,
    gradient_dtype: str | None = None,
    gradient_files: Sequence[str] = (),
    *,
    seeded: bool = False,
) -> tuple[str, Batch, list[Candidate], list[str]]:
    """Its name, logits and labels with their loss, the gradients that came with them, and notes on all of it.

    Args:
        seeded: whether --seed is used for something else, too.
    """
    _exclusive(logits, source, seeded=seeded)
    notes: list[str] = []
    array: Rows
    own: Rows | None = None
    gradient: Rows | None = None
    others: files.Contents = {}
    asked = losses.ask([*(source.loss or []), *([] if source.axis is None else [f"axis={source.axis}"])])
    if source.case is not None:
        fmt = formats.named(source.dtype or "float32")
        (case, *more) = catalogue.select(source.case)
        if more:
            raise UsageError(
                f"--case {' '.join(source.case)} names {1 + len(more)} cases; 'gradcheck stability' takes them all"
            )
        made = case.problem(fmt)
        if made is None:
            raise UsageError(f"case '{case.name}' has logits that {fmt.name} cannot hold")
        name, array, own = case.name, made.logits, made.labels
        asked = asked if asked.texts else losses.ask(case.loss)
        layout = files.Layout.of(array.shape)
    elif source.generate is not None:
        fmt = formats.named(source.dtype or "float32")
        chosen = {"classes": source.classes, "scale": source.scale, "seed": source.seed, "rows": _count(source.rows)}
        drawn = distributions.DEFAULTS | {key: value for key, value in chosen.items() if value is not None}
        array, own = distributions.generate(source.generate, fmt=fmt, **drawn)
        name = f"{source.generate}-{array.shape[0]}x{array.shape[1]}-seed-{drawn['seed']}"
        layout = files.Layout.of(array.shape)
    else:
        assert logits is not None
        loaded = files.load(
            logits,
            input_format=source.input_format,
            dtype=source.dtype,
            gradient_dtype=gradient_dtype,
            axis=asked.axis,
            others=asked.references,
        )
        array, own, gradient, fmt = loaded.logits, loaded.labels, loaded.gradient, loaded.format
        layout, others = loaded.layout, loaded.others
        notes += loaded.notes
        name = logits
    labels, note = _labels(source, array, own, layout, fmt)
    notes += [note] if note else []

    def read(name: str, text: str) -> Array | Texts:
        if not text.startswith("@"):
            return files.load_other(text, name, layout, fmt)
        if text[1:] not in others:
            raise UsageError(f"there is no file of logits, and no array '{text[1:]}' in it")
        return others[text[1:]]

    options = asked.options(read)
    if "weight" in others and "weight" not in asked.texts:
        options = (*options, losses.of_array("weight", others["weight"]))
        notes.append("the file's array 'weight' holds class weights, and is taken as --loss weight=@weight")
    try:
        batch = Batch(logits=array, labels=labels, format=fmt, loss=options)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    gradients = [] if gradient is None else [candidates.given("gradient in the file", gradient)]
    for path in dict.fromkeys(gradient_files):
        found = files.load_gradient(path, layout, gradient_dtype, fmt)
        gradients.append(candidates.given(path, found))
    rows = _chosen(source, batch.rows)
    if rows is not None:
        batch = batch.take(rows)
        notes.append(f"{len(rows)} of the input's rows were checked; row numbers are the input's")
    return name, batch, gradients, notes


def load_each(logits: str | None, source: Source, *, seeded: bool = False) -> Iterator[tuple[str, Problem, list[str]]]:
    """The problem, or that of each case, of the rows that are to be looked at: its name, itself, notes."""
    selected = [] if source.case is None else catalogue.select(source.case)
    one_by_one = [dataclasses.replace(source, case=[case.name]) for case in selected] or [source]
    held = [one for one in one_by_one if len(one_by_one) == 1 or _held(one)]
    if not held:
        raise UsageError(f"none of these cases has logits that {source.dtype} can hold")
    left = [case.name for case, one in zip(selected, one_by_one, strict=False) if one not in held]
    said = [f"left out, because their logits do not fit into the format: {', '.join(left)}"] if left else []
    for one in held:
        name, batch, _, notes = load(logits, one, seeded=seeded)
        notes, said = [*said, *notes], []
        with naming(name):
            problem = batch.problem(batch.numbers(slice(None)))
        yield name, problem, notes


def _held(source: Source) -> bool:
    """Whether the format can hold a case; of several, those that it cannot are passed over."""
    (case,) = catalogue.select(source.case or [])
    return case.problem(formats.named(source.dtype or "float32")) is not None


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts the input's name before what is wrong with one of its rows, which is found when the row is read."""
    try:
        yield
    except RowError as error:
        raise InputError(f"{name}: {error}") from None


def _exclusive(logits: str | None, source: Source, *, seeded: bool) -> None:
    """One source of logits, and no option that belongs to another."""
    sources = {"LOGITS": logits, "--generate": source.generate, "--case": source.case}
    given = [flag for flag, value in sources.items() if value is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "there are no logits"
        raise UsageError(f"{what}; give a file, --generate NAME or --case NAME")
    drawing = {"--classes": source.classes, "--scale": source.scale}
    stray = [flag for flag, value in drawing.items() if value is not None and source.generate is None]
    if stray:
        raise UsageError(f"{' and '.join(stray)} go with --generate")
    if source.seed is not None and source.generate is None and source.sample is None and not seeded:
        raise UsageError("--seed goes with --generate or --sample")
    if source.input_format is not None and logits is None:
        raise UsageError("--input-format goes with a file of logits")


def _labels(
    source: Source, logits: Rows, own: Rows | None, layout: files.Layout, fmt: Format
) -> tuple[Rows, str | None]:
    wanted = source.labels
    if wanted is None:
        if own is None:
            raise UsageError("the logits come without labels; give --labels FILE, a class number, argmax or argmin")
        return own, None
    if wanted in ("argmax", "argmin"):
        sign = 1 if wanted == "argmax" else -1
        found = []
        for rows in blocks(logits):
            part = sign * logits[rows].astype(np.float64)
            found.append(np.where(np.isnan(part), -np.inf, part).argmax(axis=1))
        return np.concatenate(found), None
    try:
        return np.full(logits.shape[0], whole(wanted), dtype=np.int64), None
    except ValueError:  # no number, so a file
        pass
    return files.load_labels(wanted, layout, fmt)


def _count(rows: str | None) -> int | None:
    """How many rows to draw."""
    try:
        return None if rows is None else whole(rows)
    except ValueError:
        raise UsageError(f"--rows with --generate is a whole number, not '{rows}'") from None


def _chosen(source: Source, count: int) -> Int64 | None:
    """The numbers of the rows to check, or None for all."""
    rows = np.arange(count)
    if source.rows is not None and source.generate is None:
        first, colon, last = source.rows.partition(":")
        try:
            bounds = [whole(bound) if bound else None for bound in (first, last)]
        except ValueError:
            bounds = []
        if not colon or not bounds:
            raise UsageError(f"--rows should read A:B, not '{source.rows}'")
        rows = rows[slice(*bounds)]
        if not rows.size:
            raise UsageError(f"--rows {source.rows} leaves none of the {count} rows")
    if source.sample is not None and source.sample < len(rows):
        rows = np.sort(np.random.default_rng(source.seed or 0).choice(rows, size=source.sample, replace=False))
    return rows if len(rows) < count else None
