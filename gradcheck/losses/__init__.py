"""Loss options: one file each, folding into the canonical terms of `gradcheck.problem`.

A file defines `parse(text) -> LossOption`, or `of(numbers) -> LossOption` where the option takes an array; its name
is the option's public name. Options fold in the order of their `Stage`, in whatever order they are given. Where
libraries disagree, a rule after a colon says whose is meant; PyTorch's is the default.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from gradcheck import plugins
from gradcheck.exact import Texts
from gradcheck.exceptions import InputError, UsageError
from gradcheck.formats import Array
from gradcheck.losses import like
from gradcheck.losses._numbers import Numbers, Read, inline, no_files
from gradcheck.losses.axis import Axis
from gradcheck.problem import LossOption

__all__ = ["Asked", "Read", "ask", "given", "names", "of_array", "parse", "story", "summary"]


def names() -> list[str]:
    """The loss options that there are."""
    return plugins.names(sys.modules[__name__])


def summary(name: str) -> str:
    """What an option is, in one sentence."""
    return plugins.documented(sys.modules[__name__], name)[0]


def story(name: str) -> str:
    """What there is to know beyond that sentence; may be empty."""
    return plugins.documented(sys.modules[__name__], name)[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Options as they were asked for, whose arrays have not been looked for yet.

    Attributes:
        texts: the value of each, by name, in the order in which they were given.
        ready: those that are no arrays.
    """

    texts: Mapping[str, str]
    ready: Mapping[str, LossOption]

    @property
    def axis(self) -> int | None:
        """Which axis of the logits holds the classes, where an option says so."""
        return next((option.number for option in self.ready.values() if isinstance(option, Axis)), None)

    @property
    def references(self) -> list[str]:
        """The arrays that are to be in the file of logits, by name."""
        return [text[1:] for name, text in self.texts.items() if name not in self.ready and text.startswith("@")]

    @property
    def names_file(self) -> bool:
        """Whether an array is to come from a file of its own."""
        arrays = [text for name, text in self.texts.items() if name not in self.ready]
        return any(not text.startswith("@") and inline(text) is None for text in arrays)

    def options(self, read: Read = no_files) -> tuple[LossOption, ...]:
        """The options, the plain ones (`reduction=none`) included.

        Args:
            read: finds the array that text stands for, a file's path or @NAME, by the option's name.
        """
        arrays = {name: _of_array(name, text, read) for name, text in self.texts.items() if name not in self.ready}
        found = {name: self.ready.get(name) or arrays[name] for name in (*self.texts, *self.ready)}
        return tuple(found.values())


def ask(settings: Iterable[str]) -> Asked:
    """What `KEY=VALUE` texts ask for.

    Raises:
        UsageError: for an unknown option, an unreadable value, or an option given twice.
    """
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"loss option '{setting}' should read KEY=VALUE, for example reduction=mean")
        if name in texts:
            raise UsageError(f"loss option '{name}' is given twice")
        texts[name] = value.strip()
    return _asked(texts)


def parse(settings: Iterable[str]) -> tuple[LossOption, ...]:
    """`KEY=VALUE` texts as loss options, with arrays as lists of numbers.

    Raises:
        UsageError: as `ask`.
    """
    return ask(settings).options()


def given(values: Mapping[str, object]) -> tuple[LossOption, ...]:
    """Options by name, with texts, numbers or arrays as their values.

    Raises:
        UsageError: as `ask`.
    """
    arrays: dict[str, Array] = {}
    texts: dict[str, str] = {}
    for name, value in values.items():
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise UsageError(f"loss option '{name}' is no array ({error})") from None
        if array.ndim and array.dtype.kind != "U":
            arrays[name], texts[name] = array, f"@{name}"
        else:
            single = array.item()
            texts[name] = str(int(single) if isinstance(single, bool) else single)

    def found(name: str, text: str) -> Array | Texts:
        return arrays[name] if name in arrays else no_files(name, text)

    return _asked(texts).options(found)


def of_array(name: str, array: Array | Texts) -> LossOption:
    """The option of that name with an array that came with the logits."""
    return _of_array(name, f"@{name}", lambda *_: array)


def _asked(texts: Mapping[str, str]) -> Asked:
    library = like.parse(texts["like"]) if "like" in texts else None
    ready: dict[str, LossOption] = {}
    for name, text in texts.items():
        module = _module(name)
        if not hasattr(module, "of"):
            ready[name] = module.parse(library.ruled(name, text)) if library else module.parse(text)
    if library:
        ready = {name: library.own(option) for name, option in ready.items()}
        ready |= {option.name: option for option in library.options if option.name not in ready}
    return Asked(texts=texts, ready=ready)


def _of_array(name: str, text: str, read: Read) -> LossOption:
    module = _module(name)
    try:
        numbers = inline(text)
        array = read(name, text) if numbers is None else numbers
    except InputError as error:
        raise InputError(f"--loss {name}: {error}") from None
    except UsageError as error:
        raise UsageError(f"--loss {name}: {error}") from None
    option: LossOption = module.of(Numbers(name=name, value=text, array=array))
    return option


def _module(name: str) -> ModuleType:
    return plugins.load(sys.modules[__name__], "loss option", name)
