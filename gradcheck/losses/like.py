"""like=torch|onnx|keras|optax|liger: a library's conventions at once; what else is given goes before them.

  torch  reduction=mean, ignore_index=-100 (hard labels only), empty=nan, axis=1
  onnx   SoftmaxCrossEntropyLoss: reduction=mean:weights, empty=nan, axis=1
  keras  losses.CategoricalCrossentropy and its sparse form, from logits: reduction=mean:count, empty=zero, axis=-1
  optax  softmax_cross_entropy and its form for integer labels: reduction=none, axis=-1
  liger  Liger Kernel's cross-entropy: reduction=mean:weights, ignore_index=-100, empty=zero-if-ignored, z_loss by
         the rule `count`, axis=-1

All of them spread label smoothing over every class, the true one included. `reduction=mean` beside one of them is that
library's own mean. A Keras sample weight is an `upstream` for each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gradcheck.exceptions import UnknownNameError
from gradcheck.losses import axis, empty, ignore_index, reduction
from gradcheck.problem import LossOption, Stage, Terms


@dataclass(frozen=True, kw_only=True)
class Like(LossOption):
    """A library's conventions.

    Attributes:
        options: what it does where nothing is said.
        rules: by option, the rule that it follows where a value is given without one.
    """

    library: str
    options: tuple[LossOption, ...]
    rules: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "like"
    stage: ClassVar[Stage] = Stage.LAYOUT

    @property
    def value(self) -> str:
        """The library."""
        return self.library

    def fold(self, terms: Terms) -> Terms:
        """Nothing: its conventions are options of their own."""
        return terms

    def ruled(self, name: str, text: str) -> str:
        """The text of an option, with the library's rule where it names none."""
        rule = self.rules.get(name)
        return f"{text}:{rule}" if rule and text and ":" not in text and text not in ("none", "sum") else text

    def own(self, option: LossOption) -> LossOption:
        """The library's own option where a given one says the same."""
        return next((mine for mine in self.options if (mine.name, mine.value) == (option.name, option.value)), option)


def _mean(rule: str | None) -> reduction.Reduction:
    return reduction.Reduction(how="mean", rule=rule)


_IGNORED = ignore_index.IgnoreIndex(label=-100, hard_only=True)
_NAN, _ZERO, _ZERO_IF_IGNORED = (empty.Empty(convention=name) for name in ("nan", "zero", "zero-if-ignored"))
_SECOND, _LAST = axis.Axis(number=1), axis.Axis(number=-1)

_LIBRARIES = {
    library.library: library
    for library in (
        Like(library="torch", options=(_mean(None), _IGNORED, _NAN, _SECOND)),
        Like(library="onnx", options=(_mean("weights"), _NAN, _SECOND), rules={"reduction": "weights"}),
        Like(library="keras", options=(_mean("count"), _ZERO, _LAST), rules={"reduction": "count"}),
        Like(library="optax", options=(reduction.Reduction(how="none"), _LAST)),
        Like(
            library="liger",
            options=(_mean("weights"), _IGNORED, _ZERO_IF_IGNORED, _LAST),
            rules={"reduction": "weights", "z_loss": "count"},
        ),
    )
}


def parse(text: str) -> Like:
    """The library of that name."""
    if text not in _LIBRARIES:
        raise UnknownNameError("library", text, _LIBRARIES)
    return _LIBRARIES[text]
