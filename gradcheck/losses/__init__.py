"""Loss options: one file each, folding into the canonical terms of `gradcheck.problem`.

A file defines `parse(text) -> LossOption`; its name is the option's public name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from gradcheck import plugins
from gradcheck.exceptions import UsageError
from gradcheck.problem import LossOption


def names() -> list[str]:
    """The loss options that there are."""
    return plugins.names(sys.modules[__name__])


def summary(name: str) -> str:
    """What an option is, in one sentence."""
    return plugins.summary(plugins.load(sys.modules[__name__], "loss option", name))


def story(name: str) -> str:
    """What there is to know beyond that sentence; may be empty."""
    return plugins.story(plugins.load(sys.modules[__name__], "loss option", name))


def parse(settings: Iterable[str]) -> tuple[LossOption, ...]:
    """`KEY=VALUE` texts as loss options, the plain ones (`reduction=none`) included.

    Raises:
        UsageError: for an unknown option, an unreadable value, or an option given twice.
    """
    options: dict[str, LossOption] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"loss option '{setting}' should read KEY=VALUE, for example reduction=mean")
        if name in options:
            raise UsageError(f"loss option '{name}' is given twice")
        module = plugins.load(sys.modules[__name__], "loss option", name)
        option: LossOption = module.parse(value.strip())
        options[name] = option
    return tuple(options.values())
