"""label_smoothing=EPSILON[:uniform|:others]: a share of the labels is spread over the classes.

  uniform  (1 − ε)·y + ε/K: over all K classes, the true one included (the default: PyTorch, Keras, Optax, Liger Kernel)
  others   1 − ε for the true class, ε/(K − 1) for each of the others (fairseq, Megatron-LM); hard labels only

ε is from 0 to 1, as the exact decimal that is written. K counts the classes that a mask leaves. Class weights come
after it: w∘((1 − ε)·y + ε/K), as in PyTorch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from gradcheck.exceptions import InputError
from gradcheck.formats import Array
from gradcheck.losses import _numbers
from gradcheck.problem import Stage, Terms

_RULES = ("uniform", "others")


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(_numbers.OfNumber):
    """ε and its rule; None is `uniform`."""

    name: ClassVar[str] = "label_smoothing"
    usual: ClassVar[str | None] = "uniform"
    stage: ClassVar[Stage] = Stage.LABELS

    def idle(self, labels: Array) -> bool:
        """Whether its number changes nothing."""
        return not self.number

    def fold(self, terms: Terms) -> Terms:
        """Mixes the labels."""
        if not self.number:
            return terms
        classes = terms.logits.shape[1]
        counts = [classes] * terms.rows if terms.mask is None else terms.mask.sum(axis=1).tolist()
        shares = {count: self._share(count, terms) for count in set(counts)}
        return dataclasses.replace(
            terms,
            keep=tuple(shares[count][0] for count in counts),
            spread=tuple(shares[count][1] for count in counts),
        )

    def _share(self, classes: int, terms: Terms) -> tuple[Fraction, Fraction]:
        """What is kept of a label, and what every class gets, where there are so many classes."""
        if self.rule != "others":
            return 1 - self.number, self.number / max(classes, 1)
        if terms.hard is None:
            raise InputError("label_smoothing by the rule 'others' needs hard labels; these are soft")
        if classes < 2:
            raise InputError("label_smoothing by the rule 'others' needs two classes or more")
        share = self.number / (classes - 1)
        return 1 - self.number - share, share


def parse(text: str) -> LabelSmoothing:
    """The option from its text."""
    value, rule = _numbers.ruled("label_smoothing", text, _RULES)
    epsilon = _numbers.decimal("label_smoothing", value, "1e-100", "1")
    return LabelSmoothing(text=value, number=epsilon, rule=rule)
