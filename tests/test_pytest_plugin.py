"""The pytest plugin: a fixture's whole life, from missing to passing, changed, updated and passing again."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from gradcheck import fixtures
from gradcheck.fixtures import Recorded
from tests.conftest import make_problem

PROBLEM = make_problem([[0.5, -1.0, 2.0], [1.0, 0.0, 40.0]], [0, 2], "float32")


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A project of two fixtures and no Python test."""
    path = pytester.path / "mine.gradcheck.toml"
    fixtures.record(path, [Recorded(name="first", problem=PROBLEM), Recorded(name="second", problem=PROBLEM)])
    path.write_text(path.read_text().replace('name = "first"', 'name = "first"  # keep this', 1))
    return path


def test_the_whole_life_of_a_fixture(pytester: pytest.Pytester, project: Path) -> None:
    sound = project.read_text()
    start, end = sound.index("expected = ["), sound.index("uncertainty_ulp")
    project.write_text(sound[:start] + sound[end:])
    missing = pytester.runpytest("-q")
    missing.assert_outcomes(failed=1, passed=1)
    missing.stdout.fnmatch_lines(["*mine.gradcheck.toml::first*has no expected values yet*fixtures update*"])
    pytester.runpytest("-q", "--gradcheck-update").assert_outcomes(failed=1, passed=1)
    pytester.runpytest("-q").assert_outcomes(passed=2)

    written = project.read_text()
    assert "# keep this" in written
    value = re.search(r'expected = \[\n    \["([^"]*)"', written)
    assert value is not None
    changed = value[1][:12] + ("1" if value[1][12] != "1" else "2") + value[1][13:]
    project.write_text(written.replace(value[1], changed, 1))
    failed = pytester.runpytest("-q")
    failed.assert_outcomes(failed=1, passed=1)
    text = failed.stdout.str()
    # file, name, row, class, both values
    for part in ("mine.gradcheck.toml::first", "row 0, class 0", changed, f"central differences give {value[1][:20]}"):
        assert part in text
    assert project.read_text() != written

    updated = pytester.runpytest("-q", "--gradcheck-update")
    updated.assert_outcomes(failed=1, passed=1)  # so that somebody looks
    updated.stdout.fnmatch_lines(["*updated; look at the difference*", f"*-*{changed}*", f"*+*{value[1]}*"])
    assert project.read_text() == written
    pytester.runpytest("-q").assert_outcomes(passed=2)


def test_ids_and_properties(pytester: pytest.Pytester, project: Path) -> None:
    pytester.runpytest("-v").stdout.fnmatch_lines(["*mine.gradcheck.toml::first?float32? PASSED*"])
    pytester.runpytest("-q", "mine.gradcheck.toml::second[float32]").assert_outcomes(passed=1)
    pytester.runpytest("-q", "-k", "first").assert_outcomes(passed=1, deselected=1)
    pytester.runpytest("-q", "--junit-xml=out.xml", "--gradcheck-deep")
    xml = (pytester.path / "out.xml").read_text()
    for name in ("gradcheck.shifted.max_bound", "gradcheck.shifted.verdict", "gradcheck.frozen values.verdict"):
        assert f'name="{name}"' in xml


def test_a_candidate_that_disagrees(pytester: pytest.Pytester, project: Path) -> None:
    pytester.makepyfile(own="import numpy as np\ndef zeros(logits, labels):\n    return np.zeros_like(logits)\n")
    pytester.makeini("[pytest]\ngradcheck_candidates =\n    own:zeros\n    compensated\n")
    failed = pytester.runpytest("-q")
    failed.assert_outcomes(failed=2)
    failed.stdout.fnmatch_lines(
        ["*mine.gradcheck.toml::first: own:zeros ?float32?: fail, row *, class *off by*ulp*", "diagnosis: *"]
    )
    assert "compensated" not in failed.stdout.str()
    pytester.makeini("[pytest]\ngradcheck_tolerance = ulp:0\n")
    pytester.runpytest("-q").assert_outcomes(failed=2)
    pytester.makeini("[pytest]\ngradcheck_tolerance = nonsense\n")
    wrong = pytester.runpytest("-q")
    wrong.stdout.fnmatch_lines(["*unknown tolerance 'nonsense'*"])


def test_nothing_is_left_changed(pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a fixture passes, fails, or cannot be judged."""
    pytester.makeconftest(
        "import os, pytest\n"
        "from tests.test_api import settings\n"
        "@pytest.hookimpl(hookwrapper=True)\n"
        "def pytest_runtest_call(item):\n"
        "    before = settings()\n"
        "    yield\n"
        "    os.environ['PYTEST_CURRENT_TEST'] = before['place'][2]['PYTEST_CURRENT_TEST']\n"  # which pytest changes
        "    assert settings() == before\n"
        "    print('as', 'before')\n"
    )
    value = re.search(r'expected = \[\n    \["([^"]*)"', project.read_text())
    assert value is not None
    project.write_text(project.read_text().replace(value[1], "0.25", 1).replace("stable", "ulp:none", 1))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
    for words in (["--gradcheck-update"], ["-o", "gradcheck_candidates=naive"]):
        ran = pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider", *words)
        assert ran.stdout.str().count("as before") == 2


def test_a_corrupt_file_is_a_collection_error(pytester: pytest.Pytester, project: Path) -> None:
    project.write_text(project.read_text().replace("entries = 2", "entries = 5"))
    result = pytester.runpytest("-q")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*mine.gradcheck.toml: says that it has 5 entries and has 2*"])


def test_in_parallel(pytester: pytest.Pytester, project: Path) -> None:
    pytest.importorskip("xdist")
    pytester.runpytest("-q", "-n", "2").assert_outcomes(passed=2)
    refused = pytester.runpytest("-q", "-n", "2", "--gradcheck-update")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*does not go with -n*"])


def test_nothing_heavy_is_imported_where_there_is_no_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_light():\n    assert not {'mpmath', 'pydantic', 'tomlkit'} & set(sys.modules)\n"
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)


def test_a_fixture_speaks_to_no_terminal(pytester: pytest.Pytester, project: Path) -> None:
    sound = project.read_text()
    project.write_text(sound.replace("format =", '"\\u001b[31m\\u202e" = 1\nformat =', 1))
    broken = pytester.runpytest("-q").stdout.str()
    assert r"unknown key '\x1b[31m\u202e'" in broken
    assert "\x1b[31m" not in broken
    project.write_text(sound.replace('"stable"', '"\\u009b31m"', 1))
    refused = pytester.runpytest("-q").stdout.str()
    assert r"unknown tolerance '\x9b31m'" in refused
    assert "\x9b" not in refused
