"""The ends of each format: largest finite, smallest subnormal, signed zeros.

    ∂L/∂l_i = exp(l_i − max l)/S − y_i

The shift l − max may overflow to −inf, whose exp is 0 and right. What must not happen is inf − inf = NaN, or a maximum
that is looked for among magnitudes.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format


def _largest(fmt: Format) -> tuple[Logits, Labels]:
    top = fmt.max
    # −max − max overflows: a shifted logit of -inf is right, a NaN is not
    return [[top, -top, 0.0], [-top, top, top], [-top, -top, fmt.next_up(-top)]], [0, 0, 1]


def _subnormal(fmt: Format) -> tuple[Logits, Labels]:
    tiny, normal = fmt.smallest_subnormal, fmt.smallest_normal
    return [[tiny, -tiny, 0.0, normal], [3 * tiny, normal, -normal, -3 * tiny]], [0, 3]


CASES = (
    Case(
        name="extreme-largest-finite",
        reason="Plus and minus the largest finite value in one row: the shift overflows to -inf, and may.",
        make=_largest,
    ),
    Case(
        name="extreme-subnormal-logits",
        reason="Subnormal logits: nearly equal probabilities, and inputs that flushing hardware reads as 0.",
        make=_subnormal,
    ),
    Case(
        name="extreme-signed-zeros",
        reason="Logits 0 and -0 are the same number.",
        make=fixed([[0.0, -0.0, 1.0], [-0.0, -0.0, 0.0]], [0, 1]),
    ),
)
