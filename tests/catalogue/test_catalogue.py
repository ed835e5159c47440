"""The catalogue: every case is valid and decided in each format that it claims, and makes the same numbers always."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradcheck import catalogue, plugins, reference
from gradcheck.catalogue import HARD, LARGE, SOFT, Case
from gradcheck.exceptions import UnknownNameError, UsageError
from gradcheck.formats import Format, named
from gradcheck.problem import RowStatus
from gradcheck.reference import Settings
from gradcheck.reference.rule import TARGET_BITS
from tests.conftest import EVERY_FORMAT

CATALOGUE = list(catalogue.cases().values())

PUBLISHED = {
    "pytorch/pytorch#195678", "jax-ml/jax#40344", "tensorflow/tensorflow#126634",  # true-class cancellation
    "linkedin/Liger-Kernel#1268", "NVIDIA/TransformerEngine#3193",  # a fix-up after storing
    "pytorch/pytorch#38839",  # a large common offset
    "google-deepmind/optax#896",  # -inf with soft label 0
    "pytorch/pytorch#11551", "PaddlePaddle/Paddle#28622",  # ignored rows
    "pytorch/pytorch#70348",  # a mean over nothing
    "pytorch/pytorch#73205", "pytorch/pytorch#61309",  # smoothing with ignored rows, with weights
    "linkedin/Liger-Kernel#968", "linkedin/Liger-Kernel#678",  # a gradient from above for each row
    "unslothai/unsloth#10616", "unslothai/unsloth-zoo#593",  # softcaps
    "jax-ml/jax#40409",  # 2^16 elements in float16
    "NVIDIA/Megatron-LM#737",  # smoothing over a shard
    "apple/ml-cross-entropy#14",  # a gradient filter
    "allenai/OLMo-core#702", "mlfoundations/open_lm#92",  # z-losses
    "huggingface/transformers#34191",  # a mean of means
}  # fmt: skip
"""The threads that the catalogue must have a case of."""


def test_there_are_enough() -> None:
    default = catalogue.select()
    assert len(default) >= 45
    by_default = sum(case.problem(named(name)) is not None for case in default for name in ("float32", "float64"))
    assert by_default >= 90


def test_every_published_bug_is_a_case() -> None:
    assert {source for case in CATALOGUE for source in case.sources} >= PUBLISHED


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_case_says_what_it_is_for(case: Case) -> None:
    assert case.reason.endswith(".")
    assert case.name == case.name.lower()
    assert case.phenomenon in plugins.names(catalogue)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", source) for source in case.sources)
    assert any(case.problem(fmt) is not None for fmt in EVERY_FORMAT)
    first, _, rest = catalogue.story(case).partition("\n\n")
    assert first.endswith(".")
    assert len(rest) > 100


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_case_is_decided_in_every_format_that_holds_it(case: Case, fmt: Format) -> None:
    problem = case.problem(fmt)
    if problem is None:
        made = case.make(fmt)
        assert made is None or np.nanmax(np.abs(np.asarray(made[0]))) > fmt.max
        return
    again = case.problem(fmt)
    assert again is not None
    assert problem.logits.tobytes() == again.logits.tobytes()
    assert problem.labels.tobytes() == again.labels.tobytes()
    assert (problem.status != RowStatus.UNDEFINED).any()
    exact = reference.compute(problem, fmt, Settings())
    assert exact.values.in_ulps(exact.values.uncertainty).max() <= 2.0**-TARGET_BITS


def test_selection() -> None:
    assert [case.name for case in catalogue.select(["plain-3", "equal-*"])] == [
        name for name in catalogue.cases() if name == "plain-3" or name.startswith("equal-")
    ]
    with pytest.raises(UnknownNameError, match="did you mean 'plain-3'"):
        catalogue.select(["plian-3"])


def test_a_large_case_must_be_asked_for() -> None:
    large = {case.name for case in CATALOGUE if LARGE in case.tags}
    assert len(large) >= 5
    assert {case.name for case in catalogue.select()} == {case.name for case in CATALOGUE} - large
    assert {case.name for case in catalogue.select((), [LARGE])} == large
    assert [case.name for case in catalogue.select(["vocabulary-32000"])] == ["vocabulary-32000"]
    assert {case.name for case in catalogue.select((), ["vocabulary"])} == large
    assert LARGE not in {tag for case in catalogue.select((), ["vocabulary", "plain"]) for tag in case.tags}


def test_a_case_is_tagged_by_what_its_labels_are() -> None:
    made = {case: problem.labels.ndim for case in CATALOGUE for problem in [case.problem(named("float64"))] if problem}
    assert len(made) == len(CATALOGUE)
    for case, dimensions in made.items():
        assert [tag for tag in case.tags if tag in (HARD, SOFT)] == [SOFT if dimensions == 2 else HARD], case.name
    assert not {LARGE, SOFT} & {tag for case in catalogue.select((), [HARD]) for tag in case.tags}


def test_tags() -> None:
    assert {case.phenomenon for case in catalogue.select((), ["masked", "order"])} == {"masked", "order"}
    assert [case.name for case in catalogue.select(["*-3", "*-10"], ["plain"])] == ["plain-3", "plain-10"]
    assert catalogue.tags()[LARGE] == len(catalogue.select((), [LARGE]))
    with pytest.raises(UnknownNameError, match="did you mean 'masked'"):
        catalogue.select((), ["maskd"])
    with pytest.raises(UsageError, match="both named plain-3 and tagged masked"):
        catalogue.select(["plain-3"], ["masked"])


def test_a_format_that_cannot_hold_a_case_has_none() -> None:
    assert catalogue.cases()["saturated-gap-1e300"].problem(named("float32")) is None
    assert catalogue.cases()["saturated-gap-1e300"].problem(named("float64")) is not None
