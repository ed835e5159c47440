"""A short walk from the corpus; `python -m tests.fuzzing` takes longer ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzzing import drawn, targets
from tests.fuzzing.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SEEDS = {folder.name: sorted(folder.iterdir()) for folder in sorted(CORPUS.iterdir())}


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_FOLDER", tmp_path_factory.mktemp("fuzzing"))


@pytest.mark.parametrize(
    "path", [path for paths in SEEDS.values() for path in paths], ids=lambda path: "/".join(path.parts[-2:])
)
def test_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@st.composite
def mutations(draw: st.DrawFn, name: str) -> bytes:
    """One file of the corpus with pieces replaced, doubled and cut out, by what stands elsewhere or by odd bytes."""
    content = draw(st.sampled_from(SEEDS[name])).read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(content)))
        last = draw(st.integers(first, min(len(content), first + 32)))
        odd = [
            b"",
            b"\0",
            b"\xff" * 8,
            b"-",
            b"9" * 30,
            b"nan",
            b"[" * 3000,
            b"e999999",
            b"\n",
            b'"',
            "\u2028".encode(),
        ]
        piece = draw(st.sampled_from([*odd, content[first:last] * 2]) | st.binary(max_size=8))
        content = content[:first] + piece + content[last:]
    return content


@pytest.mark.parametrize("name", SEEDS)
def test_what_is_near_the_corpus(name: str) -> None:
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(content=mutations(name))
    def tried(content: bytes) -> None:
        TARGETS[name](content)

    tried()


@pytest.mark.parametrize("tried", [drawn.known, drawn.said])
def test_what_is_drawn(tried: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(targets._FOLDER)
    settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )(tried)()


def test_a_target_that_breaks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise ValueError(text)

    monkeypatch.setattr("gradcheck.tolerances.parse", broken)
    with pytest.raises(ValueError, match="stable"):
        TARGETS["tolerance"](b"stable")
