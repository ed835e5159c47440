"""Fixture files: read with mistrust, written whole, and never believed when edited."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcheck import fixtures, verification, writing
from gradcheck.exact import to_fraction
from gradcheck.exceptions import InputError
from gradcheck.files import npz
from gradcheck.fixtures import Recorded, load, record, update
from gradcheck.formats import Format
from gradcheck.problem import RowStatus
from gradcheck.results import Confirmed, Crashed, Judged, Unconfirmed, Verdict
from tests.conftest import EVERY_FORMAT, Program, make_problem
from tests.conftest import arrays as arrays_of

ROOT = Path(__file__).parent.parent

PROBLEM = make_problem([[0.5, -1.0, 2.0], [1.0, 0.0, 40.0]], [0, 2], "float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "mine.gradcheck.toml"
    record(made, [Recorded(name="first", problem=PROBLEM, why="a reason"), Recorded(name="second", problem=PROBLEM)])
    return made


FIRST_EXPECTED = re.compile(r'(expected = \[\n    \[)"[^"]*"')


def edited(path: Path, was: str, now: str, count: int = 1) -> Path:
    content = path.read_text()
    assert was in content, was
    path.write_text(content.replace(was, now, count))
    return path


# --- what is frozen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", EVERY_FORMAT, ids=str)
@pytest.mark.parametrize("large", [False, True], ids=["text", "arrays"])
def test_a_problem_comes_back_as_it_was_recorded(fmt: Format, large: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = (3, 400) if large else (3, 5)
    logits = rng.normal(size=size) * 20
    logits[1, 2] = -math.inf
    logits[2, 1] = math.nan
    for number, labels in enumerate(([1, -100, 0], rng.random(size))):
        loss = ["ignore_index=-100", "reduction=mean"] if number == 0 else []
        problem = make_problem(logits, labels, fmt, loss=loss)
        path = tmp_path / f"{number}.gradcheck.toml"
        record(path, [Recorded(name="x", problem=problem)])
        assert (len(list(tmp_path.glob(f"{number}-*.npz"))) == 1) is large
        (found,) = load(path)
        assert found.problem.logits.dtype == fmt.dtype
        assert np.array_equal(
            found.problem.logits.astype(np.float64), problem.logits.astype(np.float64), equal_nan=True
        )
        assert np.array_equal(found.problem.labels, problem.labels)
        assert {o.name: o.value for o in found.problem.loss} == {o.name: o.value for o in problem.loss}
        assert not found.edited
        exact, frozen = fixtures.derive(problem), found.frozen(fmt)
        for row, cls in np.argwhere(np.broadcast_to(frozen.judged, logits.shape)).tolist():
            ulp = to_fraction(2) ** int(exact.values.ulp_log2[row, cls])
            apart = abs(to_fraction(frozen.exact(row, cls)) - to_fraction(exact.exact(row, cls)))
            assert apart <= ulp / 2**38
            if problem.status[row] == RowStatus.IGNORED:
                assert frozen.values.uncertainty[row, cls] == 0
        assert fixtures.mismatches(found, exact) == []


@pytest.mark.parametrize("soft", [False, True])
def test_the_bits_of_a_format_of_one_byte_come_back(soft: bool, tmp_path: Path, one_byte: Format) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((3, 400)) if soft else np.array([1, 0, 7])
    problem = make_problem(rng.normal(size=(3, 400)), labels, one_byte)
    path = tmp_path / "x.gradcheck.toml"
    record(path, [Recorded(name="one", problem=problem)])
    assert list(tmp_path.glob("*.npz"))
    (fixture,) = load(path)
    for held, own in ((fixture.problem.logits, problem.logits), (fixture.problem.labels, problem.labels)):
        assert (held.dtype, held.tobytes()) == (own.dtype, own.tobytes())
    assert {result.verdict for result in verification.verify(fixture, deep=True)} == {Verdict.PASS}


def test_frozen_values_judge_as_central_differences_do(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.gradcheck.toml"
    for name in ("saturated-gap-20", "overflow-sum", "plain-mean", "masked-*", "soft-*"):
        path.unlink(missing_ok=True)
        assert program("fixtures", "record", "--case", name, "-o", str(path)).code == 0
        for candidate in ("shifted", "naive"):
            ran = program("fixtures", "verify", str(path), "--candidate", candidate, "--format", "json")
            assert ran.code in (0, 1), ran.err
            for result in json.loads(ran.out)["results"]:
                case = result["case"].partition("::")[2]
                direct = program("check", "--case", case, "--candidate", candidate, "--format", "json")
                (known,) = json.loads(direct.out)["results"]
                assert (result["verdict"], result["failed"]) == (known["verdict"], known["failed"])
                for metric in ("max_ulp", "max_bound", "max_abs", "total"):
                    assert float(result[metric] or 0) == pytest.approx(
                        float(known[metric] or 0), rel=1e-6, abs=2.0**-9, nan_ok=True
                    )


def test_the_projects_own_fixtures() -> None:
    files = fixtures.find([str(ROOT / "fixtures")])
    held = [fixture for file in files for fixture in load(file)]
    assert len(held) >= 40
    assert all(fixture.why and not fixture.edited for fixture in held)


# --- edited, cut off, corrupt --------------------------------------------------------------------------------------


def verified(path: Path, **options: Any) -> list[Any]:
    return [result.outcome for fixture in load(path) for result in verification.verify(fixture, **options)]


def test_an_edited_value_is_found_and_named(path: Path) -> None:
    """One digit, far past those that the candidate's format can see."""
    (first, _) = load(path)
    assert first.expected is not None
    content = path.read_text()
    digits = content.split("expected = [\n    [")[1].split('"')[1]
    changed = digits[:16] + ("1" if digits[16] != "1" else "2") + digits[17:]
    edited(path, digits, changed)
    outcomes = verified(path)
    assert isinstance(outcomes[0], Unconfirmed)
    assert (outcomes[0].row, outcomes[0].cls, outcomes[0].wrong) == (0, 0, 1)
    assert isinstance(outcomes[1], Judged)  # the second entry is sound
    edited(path, changed, digits)
    assert all(outcome.verdict is Verdict.PASS for outcome in verified(path, deep=True))


def test_edited_logits_are_found_by_what_they_make_of_the_values(path: Path) -> None:
    outcome = verified(edited(path, '"0.5"', '"0.25"'))[0]
    assert isinstance(outcome, Unconfirmed)
    assert outcome.wrong == 3


def test_a_fixture_that_was_edited_and_is_right_says_so(path: Path) -> None:
    content = path.read_text()
    outcomes = verified(edited(path, 'uncertainty_ulp = "', 'uncertainty_ulp = "0'))
    assert isinstance(outcomes[0], Confirmed)
    assert outcomes[0].edited
    update(path).write()
    assert not load(path)[0].edited
    path.write_text(content.replace("a reason", "another reason"))
    assert not load(path)[0].edited  # what is not exact may be edited


def test_values_that_are_missing_are_no_pass(path: Path) -> None:
    content = path.read_text()
    start, end = content.index("expected = ["), content.index("uncertainty_ulp")
    path.write_text(content[:start] + content[end:])
    assert isinstance(verified(path)[0], Crashed)
    found = update(path)
    found.write()
    assert found.diff.count("\n+") >= 4
    assert all(outcome.verdict is Verdict.PASS for outcome in verified(path, deep=True))


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ("schema_version = 1\n", "", "'schema_version' is missing"),
        ("[[fixture]]", "[[fixuure]]", "unknown key 'fixuure'"),
        ("labels = [0, 2]", "labels = [0, 99999999999999999999]", "does not fit into 64 bits"),
        ('uncertainty_ulp = "', 'uncertainty_ulp = "1e-9999', "uncertainty_ulp"),
        ('uncertainty_ulp = "', 'uncertainty_ulp = "1e9', "uncertainty_ulp"),
        ("schema_version", "\ufeffschema_version", "byte order mark"),
        ("entries = 2", "entries = 3", "says that it has 3 entries and has 2"),
        ('why = "a reason"', 'why = "a reason"\ncolour = "red"', "line 8: unknown key 'colour'"),
        ('name = "second"', 'name = "first"', r"line \d+: 'first' stands there twice"),
        ('name = "first"', 'name = "a::b"', "no '::'"),
        ('name = "first"', "name = 3", "line 5: name"),
        ('format = "float32"', 'format = "float8"', "line 6: format"),
        ('["0.5", "-1.0", "2.0"]', '["0.5", "-1.0"]', "rows of 2 and 3 numbers"),
        ('["0.5", "-1.0", "2.0"]', '["0.5", "-1.0", "two"]', "'two' is no number"),
        ("labels = [0, 2]", "labels = [0, 3]", "label 3 of row 1 is outside"),
        ("labels = [0, 2]", "labels = [0]", "labels have shape"),
        ("labels = [0, 2]\n", "", "'labels' is missing"),
        ('uncertainty_ulp = "', 'uncertainty_ulp = "-', "line 19: 'first': uncertainty_ulp"),
        ('candidate = ["shifted"]', 'candidate = ["os:getcwd"]', "is code, which no fixture runs"),
        ('candidate = ["shifted"]', 'loss = { colour = "red" }', "unknown loss option"),
        ("[[fixture]]", "[[fixture", "is no TOML"),
        ('tolerance = "stable"', 'arrays = { file = "x.npz", sha256 = "' + "0" * 64 + '" }', "not beside them"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(was: str, now: str, said: str, path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load(edited(path, was, now))
    assert str(path) in str(caught.value)


def test_a_file_cut_off_anywhere_is_never_believed(path: Path) -> None:
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 7):
        path.write_bytes(content[:end])
        try:
            found = load(path)
        except InputError:
            continue
        # only what ends behind the last entry's values may be read, and then it is seen to be unsealed
        assert found[-1].edited or found[-1].expected is None
    path.write_bytes(content[:-1])
    assert len(load(path)) == 2


def test_arrays_that_are_not_those_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "wide.gradcheck.toml"
    record(path, [Recorded(name="x", problem=make_problem(np.zeros((2, 1000)), [0, 1], "float16"))])
    (arrays,) = tmp_path.glob("*.npz")
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(bytes(content))
    with pytest.raises(InputError, match="its sha256 is another"):
        load(path)
    arrays.unlink()
    with pytest.raises(InputError, match="No such file"):
        load(path)
    edited(path, arrays.name, "../" + arrays.name)
    with pytest.raises(InputError, match="own folder"):
        load(path)


# --- update --------------------------------------------------------------------------------------------------------


def test_update_changes_nothing_but_what_is_wrong(path: Path) -> None:
    content = path.read_text().replace("schema_version", "# a comment\nschema_version", 1)
    content = content.replace("labels = [0, 2]", "labels = [0,   2]  # kept as it is", 1)
    path.write_text(content)
    assert update(path).diff == ""
    wrong = edited(path, '"0.5", "-1.0", "2.0"', '"0.5", "-1.0", "2.5"').read_text()
    found = update(path)
    found.write()
    assert path.read_text() == found.text
    assert [line for line in wrong.splitlines() if "#" in line] == [
        line for line in found.text.splitlines() if "#" in line
    ]
    changed = [line for line in found.diff.splitlines() if line[:1] == "+" and line[:3] != "+++"]
    assert len(changed) == 2  # the row's values, and the digest
    assert all(outcome.verdict is Verdict.PASS for outcome in verified(path, deep=True))


def test_an_update_refuses_to_lose_what_another_wrote(path: Path) -> None:
    found = update(edited(path, '"0.5", "-1.0", "2.0"', '"0.5", "-1.0", "2.5"'))
    meanwhile = path.read_text() + "\n# somebody was here\n"
    path.write_text(meanwhile)
    with pytest.raises(InputError, match="changed by another program"):
        found.write()
    assert path.read_text() == meanwhile
    with writing._locked(path), pytest.raises(InputError, match="another program is writing"):
        writing.replace(path, b"", was=meanwhile.encode())
    assert path.read_text() == meanwhile
    with pytest.raises(InputError, match="entries"):
        update(edited(path, "entries = 2", "entries = 3"))


def test_record_does_not_write_over_anything(path: Path, program: Program) -> None:
    before = path.read_bytes()
    assert program("fixtures", "record", "--case", "plain-3", "-o", str(path)).code == 2
    assert program("fixtures", "record", "--case", "plain-3", "-o", str(path), "--append", "--name", "first").code == 2
    assert path.read_bytes() == before
    assert program("fixtures", "record", "--case", "plain-3", "-o", str(path), "--append").code == 0
    assert [fixture.name for fixture in load(path)] == ["first", "second", "plain-3"]


# --- the commands --------------------------------------------------------------------------------------------------


def test_the_commands(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a.gradcheck.toml"
    ran = program("fixtures", "record", "--case", "saturated-gap-2*", "--dtype", "float64", "-o", str(path))
    assert ran.code == 0
    assert "1 fixture recorded" in ran.err
    assert program("fixtures", "verify", str(tmp_path)).code == 0
    ran = program("fixtures", "verify", str(path), "--tolerance", "ulp:4", "--candidate", "shifted")
    assert ran.code == 1
    assert f"{path}::saturated-gap-20" in ran.out
    assert program("fixtures", "update", str(path)).out == ""
    path.write_text(FIRST_EXPECTED.sub(r'\1"0.125"', path.read_text()))
    assert program("fixtures", "update", "--check", str(path)).code == 1
    assert program("fixtures", "verify", str(path)).code == 1
    ran = program("fixtures", "update", str(path))
    assert (ran.code, ran.out.count("\n-    [")) == (0, 1)
    assert program("fixtures", "verify", str(path), "--deep").code == 0
    schema = json.loads(program("fixtures", "schema").out)
    assert {"schema_version", "entries", "fixture"} == set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_a_function_in_place_of_the_fixtures_candidates(program: Program, path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "own.py"
    mine.write_text("import numpy as np\ndef zeros(logits, labels):\n    return np.zeros_like(logits)\n")
    ran = program("fixtures", "verify", str(path), "--candidate", f"{mine}:zeros")
    assert ran.code == 1
    assert f"{mine}:zeros" in ran.out


def test_failing_results_become_fixtures(program: Program, tmp_path: Path) -> None:
    saved, path = tmp_path / "r.json", tmp_path / "worst.gradcheck.toml"
    program(
        "stability", "--case", "overflow-*", "--case", "plain-3", "--candidate", "naive", "--report", f"json={saved}"
    )
    assert program("fixtures", "record", "--result", str(saved), "-o", str(path)).code == 0
    held = load(path)
    assert {fixture.problem.rows for fixture in held} == {1}
    assert len(held) == 6
    assert program("fixtures", "verify", str(path)).code == 0
    assert program("fixtures", "verify", str(path), "--candidate", "naive").code == 1
    assert program("stability", "--case", "plain-3", "--report", f"json={saved}").code == 0
    ran = program("fixtures", "record", "--result", str(saved), "-o", str(tmp_path / "no.gradcheck.toml"))
    assert "has no failing gradient" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "nowhere"], "no such file"),
        (["verify", "{}"], "no files \\*.gradcheck.toml"),
        (["verify", "{}/x.toml"], "named \\*.gradcheck.toml"),
        (["record", "--case", "plain-3", "-o", "{}/x.toml"], "named \\*.gradcheck.toml"),
        (["record", "--case", "plain-3"], "--output FILE is missing"),
        (["record", "-o", "{}/y.gradcheck.toml"], "there are no logits"),
        (["record", "--case", "plain-*", "--name", "x", "-o", "{}/y.gradcheck.toml"], "--name names one"),
        (["record", "--case", "plain-3", "--tolerance", "x", "-o", "{}/y.gradcheck.toml"], "unknown tolerance"),
        (["record", "--case", "plain-3", "--candidate", "x", "-o", "{}/y.gradcheck.toml"], "unknown candidate"),
        (["record", "--result", "{}/x.toml", "-o", "{}/y.gradcheck.toml"], "is no JSON"),
        (["record", "x.npz", "--result", "{}/x.toml", "-o", "{}/y.gradcheck.toml"], "LOGITS and --result exclude"),
        (["record", "--case", "plain-3", "--candidate", "os:f", "-o", "{}/y.gradcheck.toml"], "which no fixture runs"),
    ],
)
def test_what_the_commands_refuse(words: list[str], said: str, program: Program, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("")
    ran = program("fixtures", *(word.replace("{}", str(tmp_path)) for word in words))
    assert ran.code == 2
    assert re.search(said, ran.err), ran.err


@pytest.mark.parametrize("value", ["1e400", "-1e99999", "nan", "1e-300"])
def test_astronomically_wrong_values_are_not_confirmed(value: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gradcheck.toml"
    problem = make_problem([[0.0, 1.0], [2.0, -1.0]], [0, -100], loss=["ignore_index=-100"])
    record(path, [Recorded(name="x", problem=problem)])
    content = path.read_text()
    (first, ignored) = re.findall(r'\n    \["([^"]*)"', content[content.index("expected") :])
    assert ignored == "0.0"
    for was, now in ((f'["{first}"', f'["{value}"'), ('["0.0", "0.0"]', f'["{value}", "0.0"]')):
        edited(path, was, now)
        for deep in (False, True):
            assert isinstance(verified(path, deep=deep)[0], Unconfirmed)
        update(path).write()
        assert path.read_text() == content


def test_a_row_made_undefined_by_hand_is_not_confirmed(path: Path) -> None:
    outcome = verified(edited(path, '"0.5"', '"nan"'))[0]
    assert isinstance(outcome, Unconfirmed)
    assert outcome.wrong == 3
    found = update(path)
    found.write()
    assert '["nan", "nan", "nan"]' in found.text


def test_append_does_not_seal_what_it_did_not_derive(path: Path, program: Program) -> None:
    path.write_text(FIRST_EXPECTED.sub(r'\1"0.125"', path.read_text()))
    assert program("fixtures", "verify", str(path)).code == 1
    assert program("fixtures", "record", "--case", "plain-3", "-o", str(path), "--append").code == 0
    assert program("fixtures", "verify", str(path)).code == 1


def test_two_recordings_of_one_new_file_do_not_lose_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.gradcheck.toml"
    writing.replace(path, b"first", new=True)
    with pytest.raises(InputError, match="is there already"):
        writing.replace(path, b"second", new=True)
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_names_that_the_reader_refuses_are_not_recorded(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    for name in ("a::b", "a[0]", "a\nb", "\udcff"):
        with pytest.raises(InputError, match=r"a name holds no|name: "):
            record(path, [Recorded(name=name, problem=PROBLEM)], append=True)
    assert path.read_bytes() == before


def test_arrays_are_followed_through_a_link_and_tidied_up(tmp_path: Path, program: Program) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.mkdir()
    wide = make_problem(np.arange(2000.0)[None, :] / 100, [0], "float32")
    record(real / "x.gradcheck.toml", [Recorded(name="a", problem=wide)])
    (link / "x.gradcheck.toml").symlink_to(real / "x.gradcheck.toml")
    record(link / "x.gradcheck.toml", [Recorded(name="b", problem=wide)], append=True)
    for folder in (real, link):
        assert program("fixtures", "verify", str(folder), "--deep").code == 0
    assert [entry.suffix for entry in link.iterdir()] == [".toml"]
    # a wrong value: --check writes nothing, update leaves no orphan
    (arrays,) = real.glob("*.npz")
    held = arrays_of(arrays)
    held["expected_high"][0, 3] *= 1 + 2.0**-20
    with arrays.open("wb") as stream:
        npz.write_named(stream, held)
    sha256 = hashlib.sha256(arrays.read_bytes()).hexdigest()
    target = real / "x.gradcheck.toml"
    target.write_text(re.sub(r'sha256 = "[0-9a-f]*"', f'sha256 = "{sha256}"', target.read_text()))
    assert program("fixtures", "verify", str(real)).code == 1
    before = sorted(real.iterdir())
    assert program("fixtures", "update", "--check", str(real)).code == 1
    assert sorted(real.iterdir()) == before
    assert program("fixtures", "update", str(real)).code == 0
    assert len(list(real.iterdir())) == 2
    assert program("fixtures", "verify", str(real), "--deep").code == 0


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gradcheck.toml"
    record(path, [Recorded(name="a", problem=make_problem(np.zeros((1, 2000)), [0], "float32"))])
    (arrays,) = tmp_path.glob("*.npz")
    sound, content = arrays_of(arrays), path.read_text()
    lies: list[dict[str, Any]] = [
        {"logits": sound["logits"].astype(np.float64)},
        {"logits": sound["logits"][0]},
        {"labels": sound["labels"].astype(np.float64)},
        {"labels": np.array(0)},
        {"expected_high": sound["expected_high"] * np.inf},
        {"expected_low": sound["expected_low"][:, :5]},
        {"expected_exponent": sound["expected_exponent"].astype(np.float64)},
        {"expected_exponent": sound["expected_exponent"] + 2**40},
        {"labels": None},
    ]
    for lie in lies:
        with arrays.open("wb") as stream:
            npz.write_named(stream, {name: array for name, array in (sound | lie).items() if array is not None})
        sha256 = hashlib.sha256(arrays.read_bytes()).hexdigest()
        path.write_text(re.sub(r'sha256 = "[0-9a-f]*"', f'sha256 = "{sha256}"', content))
        with pytest.raises(InputError, match="arrays"):
            load(path)
