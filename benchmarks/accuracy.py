"""How exact the cross-entropy gradients of frameworks are: the league table, made from saved results.

    pip install -e '.[flint,torch,jax,optax,tensorflow,keras,scipy]'
    make accuracy

runs `gradcheck stability` with each of them, which saves what it finds in accuracy.json, and then

    python benchmarks/accuracy.py accuracy.json --output docs/accuracy.md

which takes several reports, too, of other candidates or formats each. It needs bc, which checks three numbers.
"""

from __future__ import annotations

import ast
import json
import math
import subprocess
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from gradcheck import catalogue, text
from gradcheck.formats import named

_PAGE = """\
# How exact frameworks are

Made by `make accuracy`, that is by `gradcheck stability` and, from what that saved, `python benchmarks/accuracy.py`.

{versions}

Every implementation answers the cases of the catalogue ([catalogue.md](catalogue.md)) in each format, and is compared
with central differences. Cases with a loss option that it has not, and that is not composed around it, are not asked.

- `torch`, `tensorflow`, `keras` (on its TensorFlow backend): their own cross-entropy with their own backward, executed
  eagerly on a CPU; `jax`: `log_softmax` and the label's entry of it; `optax`: its two losses, differentiated by JAX;
  `scipy`: `scipy.special.softmax` minus the labels. [candidates.md](candidates.md) says what is composed around them.
- `compensated`, `shifted`, `log_softmax`, `logsumexp`, `naive` are gradcheck's own, element by element in the format.

## The table

Of each format: how many cases pass of those that were asked, by the bound that a sound algorithm meets; the largest
error *over that bound* where it passes; and the largest finite error *in units in the last place*, of plain
cross-entropy with hard labels.

{summary}

The two columns differ by what the bound forgives. Where the true class has all the probability the gradient is p − 1,
and once p rounds to 1 a 0 stands where a small number is due, off by all its digits: that is what most of the last
column tells. `compensated` shows that it need not be.

## What fails, and why

Failures by gradcheck's own diagnosis (`gradcheck explain causes`), with the largest error over the bound.

{failures}

## A short reading

{reading}

## By family of cases

The largest error over the bound of each family's cases; in **bold** how many fail.

{families}

## Three numbers, by hand

gradcheck's reference is good to 2^-10 ulp here, so that the two may differ by as much.

{by_hand}
"""

MOST = 4
"""Cases that a line names at most."""
FEW = 2
"""Cases that are named beside who fails at no others."""
BY_HAND = (
    ("torch", "saturated-published", "float64"),
    ("jax", "plain-3", "float32"),
    ("tensorflow", "losing-gap-18", "bfloat16"),
)
"""Numbers of the table that another program finds again: candidate, case, format."""

_EXAMPLE = Path(__file__).parent.parent / "examples" / "three_lines.py"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one candidate made of one case in one format, as the JSON report says it."""

    record: Mapping[str, Any]

    @property
    def candidate(self) -> str:
        """Its name."""
        return str(self.record["candidate"])

    @property
    def case(self) -> str:
        """The case's name."""
        return str(self.record["case"])

    @property
    def dtype(self) -> str:
        """The name of the format."""
        return str(self.record["dtype"])

    @property
    def passes(self) -> bool:
        """By the bound."""
        return bool(self.record["verdict"] == "pass")

    @property
    def asked(self) -> bool:
        """Whether there was anything to judge."""
        return self.record["verdict"] in ("pass", "fail", "crashed")

    def error(self, name: str) -> float:
        """A largest error; NaN where there is none."""
        return math.nan if self.record[name] is None else float(self.record[name])

    @property
    def plain(self) -> bool:
        """Whether the loss is cross-entropy with hard labels, and nothing more."""
        problem = catalogue.cases()[self.case].problem(named(self.dtype))
        return problem is not None and problem.labels.ndim == 1 and not set(self.record["loss"]) - {"reduction"}

    @property
    def why(self) -> str:
        """The diagnosis, or how it crashed."""
        if self.record["verdict"] == "crashed":
            return str(self.record["reason"])
        return str((self.record["diagnosis"] or {"cause": "unknown"})["cause"])


class Table:
    """All results of some saved reports."""

    def __init__(self, reports: Sequence[Mapping[str, Any]]) -> None:
        self.environments = [report["environment"] for report in reports]
        self.found = [Found(record=one) for report in reports for one in report["results"]]
        self.candidates = list(dict.fromkeys(one.candidate for one in self.found))
        self.dtypes = list(dict.fromkeys(one.dtype for one in self.found))
        cases = catalogue.cases()
        self.families = list(dict.fromkeys(cases[one.case].phenomenon for one in self.found))

    def of(self, candidate: str, dtype: str | None = None, family: str | None = None) -> list[Found]:
        """The results of a candidate that it was asked for."""
        cases = catalogue.cases()
        return [
            one
            for one in self.found
            if one.candidate == candidate
            and one.asked
            and dtype in (None, one.dtype)
            and (family is None or cases[one.case].phenomenon == family)
        ]

    @property
    def versions(self) -> str:
        """Of everything that computes, and the machines, as the reports say."""
        merged: dict[str, str] = {}
        for environment in self.environments:
            merged |= environment
        names = [name for name in merged if name not in ("platform", "processor")]
        versions = ", ".join(f"{'Python' if name == 'python' else name} {merged[name]}" for name in names)
        machines = "; ".join(dict.fromkeys(f"{one['platform']}, {one['processor']}" for one in self.environments))
        return textwrap.fill(f"With {versions}, on {machines}.", 120)


def largest(errors: Iterable[float]) -> float:
    """The largest finite one; NaN where there is none."""
    return max((error for error in errors if math.isfinite(error)), default=math.nan)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table; all columns but the first `left` are aligned to the right."""
    aligned = "|".join("---" if n < left else "---:" for n in range(len(head)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, *rows)).replace("\n", f"\n|{aligned}|\n", 1)


def summary(table: Table) -> str:
    """A table of each format, a line for each candidate."""
    parts = []
    for dtype in table.dtypes:
        rows = []
        for candidate in table.candidates:
            found = table.of(candidate, dtype)
            passed = [one for one in found if one.passes]
            if found:
                rows.append(
                    (
                        f"`{candidate}`",
                        f"{len(passed)} of {len(found)}",
                        text.brief(largest(one.error("max_bound") for one in passed)),
                        text.brief(largest(one.error("max_ulp") for one in found if one.plain)),
                    )
                )
        parts.append(markdown((dtype, "pass", "over the bound", "ulp"), rows))
    return "\n\n".join(parts)


def failures(table: Table) -> str:
    """What fails of each candidate, a line for each cause."""
    rows = []
    for candidate in table.candidates:
        groups: dict[str, list[Found]] = {}
        for one in table.of(candidate):
            if not one.passes:
                groups.setdefault(one.why, []).append(one)
        for why, group in sorted(groups.items()):
            cases = list(dict.fromkeys(one.case for one in group))
            more = f" and {len(cases) - MOST} more" if len(cases) > MOST else ""
            formats = [dtype for dtype in table.dtypes if any(one.dtype == dtype for one in group)]
            rows.append(
                (
                    f"`{candidate}`",
                    why,
                    _names(cases[:MOST]) + more,
                    ", ".join(formats) if len(formats) < len(table.dtypes) else "all",
                    worst(group),
                )
            )
    return markdown(("", "why", "at", "formats", "over the bound"), rows, left=4)


def worst(group: Sequence[Found]) -> str:
    """The largest error over the bound; what is not finite is largest."""
    errors = [one.error("max_bound") for one in group]
    return "not finite" if any(math.isinf(error) for error in errors) else text.brief(largest(errors))


def families(table: Table) -> str:
    """A table of each format, families down, candidates across."""
    parts = []
    for dtype in table.dtypes:
        rows = []
        for family in table.families:
            row = [family]
            for candidate in table.candidates:
                found = table.of(candidate, dtype, family)
                failed = [one for one in found if not one.passes]
                error = text.brief(largest(one.error("max_bound") for one in found if one.passes))
                row.append(f"**{len(failed)} of {len(found)}**" if failed else error if found else "")
            rows.append(row)
        parts.append(markdown((dtype, *(f"`{name}`" for name in table.candidates)), rows))
    return "\n\n".join(parts)


def reading(table: Table) -> str:
    """What the table says, with its figures."""
    lost = []
    for case, dtype in (("saturated-gap-20", "float32"), ("saturated-published", "float64")):
        at = {one.candidate: one.error("max_ulp") for one in table.found if (one.case, one.dtype) == (case, dtype)}
        keep = [name for name, error in at.items() if error < 16]
        lose = [error for error in at.values() if not error < 16]
        if lose and keep:
            lost.append(
                f"at `{case}` in {dtype} {len(lose)} of {len(at)} are off by "
                f"{' to '.join(dict.fromkeys((text.brief(min(lose)), text.brief(max(lose)))))} ulp, {_names(keep)} by "
                f"{text.brief(max(at[name] for name in keep))}"
            )
    return "\n".join(
        [
            f"- **What is lost at the true class.** {_sentence('; '.join(lost))} What loses nothing takes three lines "
            "more (`examples/three_lines.py`):",
            "",
            "  ```python",
            *(f"  {line}".rstrip() for line in _body(_EXAMPLE.read_text(encoding="utf-8"))),
            "  ```",
            "",
            f"- **Whose sum over classes is a number in half precision**: {_diagnosed(table, 'half-precision-sum')}. "
            "Of these PyTorch and JAX (with it Optax) add in float32, but the sum becomes a float16, which is "
            "infinite past 65,519. SciPy's sum is NumPy's, in bfloat16 that of ml_dtypes, which stands still at 256 "
            "ones and fails `order-late-40000`, too; SciPy does not claim that format.",
            f"- **Who flushes subnormals**, and so returns 0 where a subnormal gradient is due: "
            f"{_diagnosed(table, 'flushed-subnormals')}. `--ftz` allows it.",
            f"- **Who keeps the logarithm of the sum and the logits at an offset**, exp(l − lse): "
            f"{_diagnosed(table, 'division-free')}. Of PyTorch it is `torch.logsumexp`'s backward, in the z-loss that "
            "is composed around its cross_entropy, which itself does not.",
            f"- **Who returns ŷ − y where labels do not add up to 1**, which is not the derivative: "
            f"{_diagnosed(table, 'other-convention')}. TensorFlow's documentation asks for labels that are a "
            "distribution and says that the gradient is wrong otherwise, Keras's for one-hot ones: it is outside their "
            "contract.",
            f"- **Who lets NaN out of a row that is ignored**: {_diagnosed(table, 'ignored-rows')}, by its own "
            "`ignore_index`. Around the others gradcheck composes it, and takes the row's logits out first.",
            f"- **Who does not shift**: {_diagnosed(table, 'overflow-unshifted')}.",
        ]
    )


def _body(code: str) -> list[str]:
    """The lines of a file's only function, without its docstring."""
    *_, function = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    first, *rest, _ = function.body
    return textwrap.dedent("\n".join(code.splitlines()[first.end_lineno : rest[-1].end_lineno])).splitlines()


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _diagnosed(table: Table, cause: str) -> str:
    """Who fails by it, with the cases where these are few."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in table.candidates:
        cases = dict.fromkeys(one.case for one in table.of(name) if not one.passes and one.why == cause)
        if cases:
            alike.setdefault(tuple(cases) if len(cases) <= FEW else (), []).append(name)
    said = [_names(names) + (f" (at {_names(cases)} alone)" if cases else "") for cases, names in alike.items()]
    return "; ".join(said) or "none of them"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def by_hand(table: Table) -> str:
    """Errors of the table, each with a program for bc that finds it again from the logits."""
    parts = []
    for candidate, case, dtype in BY_HAND:
        found = next(
            (one for one in table.found if (one.candidate, one.case, one.dtype) == (candidate, case, dtype)), None
        )
        if found is None:
            continue
        program = in_bc(found)
        ran = subprocess.run(["bc", "-lq"], input=program, capture_output=True, text=True, check=True)
        parts.append(
            f"`{candidate}` at `{case}` in {dtype}: {found.record['max_ulp']:.6g} ulp, by gradcheck. By bc:\n\n"
            f"```bc\n{program}```\n\nprints {ran.stdout.strip()}."
        )
    return "\n\n".join(parts)


def in_bc(found: Found) -> str:
    """The error in ulp of the worst component, for `bc -lq`; of a case of the plain loss with hard labels."""
    fmt = named(found.dtype)
    problem = catalogue.cases()[found.case].problem(fmt)
    assert problem is not None
    place = found.record["places"]["ulp"]
    row, column = place["row"], place["class"]
    logits = [_decimal(float(one)) for one in problem.logits[row]]
    given = _decimal(float.fromhex(place["candidate_hex"]))
    true = int(problem.labels[row]) == column
    ulp = fmt.ulp_log2(float(place["reference"]))
    terms = " + ".join(f"e(({one}) - m)" for one in logits)
    size = f"2^{ulp}" if ulp >= 0 else f"(1 / 2^{-ulp})"
    return (
        f"scale = 60\nm = {logits[int(problem.logits[row].astype(float).argmax())]}\n"
        f"p = e(({logits[column]}) - m) / ({terms})\n"
        f"error = (({given}) - (p{' - 1' if true else ''})) / {size}\n"
        "scale = 5\nerror / 1\n"
    )


def _decimal(x: float) -> str:
    """All digits, for a program that rounds nothing."""
    return format(Decimal(x), "f")


def main(
    results: Annotated[list[Path], typer.Argument(help="Reports in JSON of `gradcheck stability`.")],
    output: Annotated[Path | None, typer.Option(help="Where to write the page; standard output if not given.")] = None,
) -> None:
    """Prints the page, or writes it."""
    table = Table([json.loads(path.read_text(encoding="utf-8")) for path in results])
    made = _PAGE.format(
        versions=table.versions,
        summary=summary(table),
        failures=failures(table),
        reading=reading(table),
        families=families(table),
        by_hand=by_hand(table),
    )
    if output is None:
        print(made, end="")
    else:
        output.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
