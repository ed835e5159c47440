"""The page, in a real browser: it sorts, filters, fetches nothing, and is usable by keyboard and screen reader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Program

HOSTILE = "<script>alert(1)</script>|`*_$x$ \x1b[31m&amp;"
CONTROLS = "a[href], button, input, select, summary, [tabindex]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{word}")
    for word in ("disable-background-networking", "disable-component-update", "window-size=1200,900"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.execute_cdp_cmd("Network.enable", {})
    found.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield found
    found.quit()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved report of many results."""
    path = tmp_path_factory.mktemp("saved") / "saved.json"
    words = ["stability", "--candidate", "naive", "--candidate", "shifted", "--report", f"json={path}", "-q"]
    subprocess.run([sys.executable, "-m", "gradcheck", *words], check=False)
    record = json.loads(path.read_text())
    record["results"] = (record["results"] * 2)[:500]
    path.write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def target(saved: Path) -> Path:
    """The page of 500 results."""
    words = ["report", str(saved), "--report", f"html={saved.with_suffix('.html')}", "-q"]
    subprocess.run([sys.executable, "-m", "gradcheck", *words], check=False)
    return saved.with_suffix(".html")


@pytest.fixture
def page(browser: Any, target: Path) -> Any:
    """The browser with it, as it was opened."""
    browser.get(target.as_uri())
    return browser


def column(page: Any, number: int) -> list[str]:
    found: list[str] = page.execute_script(
        "return Array.from(document.querySelectorAll('#table tbody tr')).filter(row => !row.hidden)"
        ".map(row => row.cells[arguments[0]].textContent)",
        number,
    )
    return found


@pytest.mark.browser
def test_a_complaint_would_be_seen(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text("<script>undefined.x</script><img src='http://localhost:1/x.png'>")
    browser.get((tmp_path / "wrong.html").as_uri())
    assert len(browser.get_log("browser")) >= 2


@pytest.mark.browser
def test_the_page_shows_every_result_and_fetches_nothing(page: Any) -> None:
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(column(page, 0)) == 500
    assert page.execute_script("return document.querySelectorAll('details').length") == 500


@pytest.mark.browser
def test_columns_sort_both_ways(page: Any) -> None:
    titles = [button.text for button in page.find_elements("css selector", "#table th button")]
    number = titles.index("max ulp")
    button = page.find_elements("css selector", "#table th button")[number]
    for turn in ("ascending", "descending"):
        button.click()
        assert page.find_elements("css selector", "#table th")[number].get_attribute("aria-sort") == turn
        cells = [float(cell) for cell in column(page, number) if cell != "-"]
        assert cells == sorted(cells, reverse=turn == "descending")
        assert len(set(cells)) > 20
    case = page.find_elements("css selector", "#table th button")[0]
    case.click()
    assert column(page, 0)[0] < column(page, 0)[-1]


@pytest.mark.browser
def test_rows_are_filtered(page: Any) -> None:
    field = page.find_element("id", "filter")
    field.send_keys("offset-plus NAIVE")
    assert {cell[:11] for cell in column(page, 0)} == {"offset-plus"}
    assert set(column(page, 2)) == {"naive"}
    shown = page.find_element("id", "shown").text
    assert shown == f"{len(column(page, 0))} of 500 shown"
    assert page.execute_script("return document.querySelectorAll('details:not([hidden])').length") == len(
        column(page, 0)
    )
    field.clear()
    field.send_keys(" ")
    page.execute_script(
        "const one = document.getElementById('verdict'); one.value = 'fail'; one.dispatchEvent(new Event('change'))"
    )
    assert set(column(page, 8)) == {"fail"}
    page.execute_script(
        "const one = document.getElementById('verdict'); one.value = ''; one.dispatchEvent(new Event('change'))"
    )
    assert len(column(page, 0)) == 500


@pytest.mark.browser
def test_every_control_is_reached_by_keyboard(browser: Any, tmp_path: Path, program: Program) -> None:
    target = tmp_path / "few.html"
    words = "stability --case offset-plus-1e3 --case offset-plus-1e4 --candidate naive --dtype float32"
    program(*words.split(), "--report", f"html={target}", "-q")
    browser.get(target.as_uri())
    due = browser.execute_script(
        f"return Array.from(document.querySelectorAll('{CONTROLS}')).filter(one => one.checkVisibility()).length"
    )
    seen = set()
    for _ in range(due):
        browser.switch_to.active_element.send_keys("\ue004")
        seen.add(browser.switch_to.active_element.id)
    assert len(seen) == due > 15
    browser.execute_script("document.querySelector('#table th button').focus()")
    browser.switch_to.active_element.send_keys("\n")
    assert browser.find_element("css selector", "#table th").get_attribute("aria-sort") == "ascending"


@pytest.mark.browser
def test_every_picture_and_field_has_a_text(page: Any) -> None:
    pictures = page.execute_script(
        "return Array.from(document.querySelectorAll('svg')).map(one => one.outerHTML.slice(0, 400))"
    )
    named = [one for one in pictures if 'role="img"' in one]
    assert len(named) > 300
    assert all("aria-label=" in one and 'aria-label=""' not in one for one in named)
    assert all('aria-hidden="true"' in one for one in pictures if 'role="img"' not in one)
    assert page.execute_script(
        "return Array.from(document.querySelectorAll('input, select')).every(one => one.labels.length)"
    )
    assert page.title.startswith("gradcheck")


@pytest.mark.browser
def test_a_cell_leads_to_its_result(page: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    link = page.find_elements("css selector", ".matrix td a")[1]
    result = link.get_attribute("href").rpartition("#")[2]
    assert not page.execute_script("return document.getElementById(arguments[0]).open", result)
    for _ in range(2):
        link.click()
        WebDriverWait(page, 5).until(
            lambda _: page.execute_script("return document.getElementById(arguments[0]).open", result)
        )
        page.execute_script("document.getElementById(arguments[0]).open = false", result)
    page.find_element("id", "filter").send_keys("nothing of the kind")
    link.click()
    WebDriverWait(page, 5).until(lambda _: page.find_element("id", "shown").text == "500 of 500 shown")


def hostile_report(tmp_path: Path, program: Program, form: str) -> str:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    path = folder / HOSTILE.replace("/", "∕")
    rng = np.random.default_rng(0)
    np.savez(path.with_suffix(".npz"), logits=rng.normal(size=(2, 3)), labels=[0, 1], gradient=rng.normal(size=(2, 3)))
    target = tmp_path / "out"
    program("check", str(path.with_suffix(".npz")), "--report", f"{form}={target}", "-q")
    return target.read_text(encoding="utf-8")


@pytest.mark.browser
def test_hostile_names_run_nothing(browser: Any, tmp_path: Path, program: Program) -> None:
    hostile_report(tmp_path, program, "html")
    target = (tmp_path / "out").rename(tmp_path / "out.html")
    browser.get(target.as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.scripts.length") == 1
    assert "<script>alert(1)<∕script>|`*_$x$ \\x1b[31m&amp;" in browser.find_element("css selector", "summary").text


@pytest.mark.parametrize("form", ["html", "markdown", "junit", "github", "concise", "table", "csv", "svg"])
def test_hostile_names_stay_text(form: str, tmp_path: Path, program: Program) -> None:
    shown = hostile_report(tmp_path, program, form)
    assert "\x1b" not in shown
    if form in ("html", "junit", "svg"):
        assert "<script>alert" not in shown
    if form == "markdown":
        assert "<script>alert" not in shown.replace("\\<", "")
        assert "|`" not in shown.replace("\\|", "").replace("\\`", "")
    if form == "github":
        assert all(line.startswith("::") or "::" not in line for line in shown.splitlines())
