"""Near ties: logits one unit in the last place apart, and a maximum that stands twice.

    l_i − max l = ±1 ulp, or 0

Logits that were rounded to a half format tie often. A maximum that is looked up, and then left out of the sum once too
often or once too seldom, shows here.
"""

from __future__ import annotations

from gradcheck.catalogue import Case, Labels, Logits, fixed
from gradcheck.formats import Format


def _one_ulp(fmt: Format, at: float) -> tuple[Logits, Labels]:
    up = fmt.next_up(at)
    return [[at, up, fmt.next_up(up), fmt.next_down(at)], [up, at, up, at]], [1, 0]


CASES = (
    Case(name="ties-one-ulp-at-1", reason="Logits one ulp apart around 1.", make=lambda fmt: _one_ulp(fmt, 1.0)),
    Case(
        name="ties-one-ulp-at-1024",
        reason="Logits one ulp apart around 1024, where an ulp is a visible gap in the half formats.",
        make=lambda fmt: _one_ulp(fmt, 1024.0),
    ),
    Case(
        name="ties-maximum-twice",
        reason="The maximum stands twice, once as the true class: each has probability 1/2 as far as the format sees.",
        make=fixed([[30.0, 30.0, 0.0, -5.0], [-2.0, 40.0, -2.0, 40.0]], [0, 3]),
    ),
)
