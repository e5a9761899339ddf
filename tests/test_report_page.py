"""The report in a real browser: filtering, opening a problem, keys, a phone, the dark, and texts that mean harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import IN_CHROMIUM, screenshots
from report_helpers import SHOWN, make_run

from harmonyray.report.reporting import run_report

pytestmark = IN_CHROMIUM
DESK, PHONE = (1280, 900), (375, 700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, each with its page, and the page of both."""
    folder = tmp_path_factory.mktemp("pages")
    make_run(folder / "one")
    make_run(folder / "two", "learner.lr=0.1")
    run_report(str(folder))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with screenshots().chromium() as driver:
        yield driver


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, folder: Path) -> Open:
    """Opens a page at a size, `scheme` light or dark; waits until the explorer is there."""

    def go(page: str = "one/report.html", size: tuple[int, int] = DESK, scheme: str = "light", fragment: str = "") -> Any:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get("about:blank")
        browser.get((folder / page).as_uri() + fragment)
        if page != "report.html":
            wait(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
        return browser

    return go


def wait(ready: Callable[[], Any]) -> None:
    screenshots().wait_for(ready, 20)


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts(browser: Any, selector: str) -> list[str]:
    """In one go: the page may replace them at any time."""
    script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.innerText.trim())"
    return [str(text) for text in browser.execute_script(script, selector)]


def press(browser: Any, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


def chip(browser: Any, name: str) -> None:
    (button,) = [b for b in browser.find_elements("css selector", ".chips button") if b.text == name]
    button.click()


def overflow(browser: Any) -> int:
    return int(browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_filtering(visit: Open) -> None:
    browser = visit()
    assert one(browser, "#count").text == "4 problems, 8 votes."
    chip(browser, "harmonic right, majority wrong")
    assert one(browser, "#count").text == "1 problem of 4, 2 votes of 8."
    assert texts(browser, ".item .q") == ["What is six times seven?"]
    chip(browser, "majority right, harmonic wrong")
    assert one(browser, "#count").text == "0 problems of 4, 0 votes of 8."
    chip(browser, "harmonic and majority differ")
    assert one(browser, "#count").text == "2 problems of 4, 4 votes of 8."
    chip(browser, "no label")
    assert one(browser, "#count").text == "2 problems of 4, 4 votes of 8."
    one(browser, "#step option[value='2']").click()
    assert one(browser, "#count").text == "2 problems of 4, 2 votes of 8."
    chip(browser, "all")
    one(browser, "#query").send_keys("SIX TIMES")
    wait(lambda: texts(browser, "#count") == ["1 problem of 4, 1 vote of 8."])
    one(browser, "#query").clear()
    one(browser, "#query").send_keys("64")
    wait(lambda: texts(browser, ".item .id") == ["p"])


def test_opening_a_problem(visit: Open) -> None:
    browser = visit()
    one(browser, ".item[data-problem='0']").click()
    wait(lambda: texts(browser, "#rollouts details"))
    detail = one(browser, "#detail")
    assert one(browser, "#detail h3").text == "p, step 2"
    assert one(browser, "#detail .question").text == "What is six times seven?"
    assert one(browser, "#detail .gold").text == "Gold answer: 5"
    rows = texts(browser, ".answers tbody tr")
    assert rows[0].split() == ["64", "✗", "6/8", "1/8", "0.214"]
    assert rows[1].startswith("arithmetic") and "majority" in rows[1] and "self (solver)" in rows[1] and "harmonic" not in rows[1]
    assert rows[2].split() == ["5", "✓", "label", "2/8", "4/8", "0.333"]
    assert rows[3].startswith("harmonic, geometric") and "cross (solver)" in rows[3]
    assert rows[4].split() == ["no", "answer", "0/8", "3/8"]
    assert len(texts(browser, "#rollouts details")) == 16
    assert "solver #0 · 64 ✗ · reward 1.00 · 12 tokens" in detail.text
    one(browser, ".answers tr.label-row button").click()
    wait(lambda: len(texts(browser, "#rollouts details")) == 6)
    assert all("· 5 ✓ ·" in text for text in texts(browser, "#rollouts summary"))
    one(browser, ".steps button").click()
    wait(lambda: texts(browser, "#detail h3") == ["p, step 1"])
    assert browser.current_url.endswith("#problem=p&step=1")


def test_a_link_opens_its_problem(visit: Open) -> None:
    assert one(visit(fragment="#problem=q&step=1"), "#detail h3").text == "q, step 1"


def test_keys_alone_are_enough(visit: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = visit()
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "query"
    one(browser, ".item[data-problem='0']").send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element.get_attribute("data-problem") == "1"
    press(browser, Keys.ARROW_UP)
    press(browser, Keys.ENTER)
    assert browser.switch_to.active_element.text == "p, step 2"
    press(browser, Keys.ARROW_LEFT)
    assert browser.switch_to.active_element.text == "p, step 1"
    press(browser, Keys.ESCAPE)
    assert browser.switch_to.active_element.get_attribute("data-problem") == "0"
    assert not one(browser, "#detail").is_displayed()


def test_a_chart_says_its_values_by_keys(visit: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = visit()
    figure = one(browser, ".chart")
    one(browser, ".chart svg[role=img]").send_keys(Keys.ARROW_RIGHT)
    assert figure.find_element("css selector", ".at").text == "step 1"


def test_a_phone_scrolls_one_way_only(visit: Open) -> None:
    browser = visit(size=PHONE)
    assert overflow(browser) == 0
    one(browser, ".item[data-problem='2']").click()
    wait(lambda: texts(browser, "#rollouts details"))
    assert overflow(browser) == 0
    detail = one(browser, "#detail")
    assert (detail.rect["width"], detail.rect["height"]) == PHONE
    assert browser.execute_script("const d = document.getElementById('detail'); return d.scrollWidth - d.clientWidth") == 0
    one(browser, "#detail .close").click()
    assert not detail.is_displayed()
    assert overflow(visit("report.html", size=PHONE)) == 0


def test_the_dark_is_dark(visit: Open) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    assert visit().execute_script(script) == "rgb(250, 249, 246)"
    assert visit(scheme="dark").execute_script(script) == "rgb(18, 24, 27)"


def test_what_a_model_wrote_is_text(visit: Open) -> None:
    browser = visit(fragment="#problem=q&step=1")
    wait(lambda: texts(browser, "#rollouts details"))
    assert browser.execute_script("return window.hacked") is None
    read = "return document.querySelector(arguments[0]).textContent"
    assert browser.execute_script(read, "#detail .question") == f"Evil? {SHOWN}"
    assert browser.execute_script(read, "#rollouts pre") == f"I say {SHOWN}"
    assert browser.execute_script("return document.querySelectorAll('img, iframe, object').length") == 0
    assert browser.execute_script("return document.scripts.length - document.querySelectorAll('script[type]').length") == 1
    # Even markup that got in could not run a script: the page's policy allows its own alone.
    attack = "const s = document.createElement('script'); s.textContent = 'window.hacked = 9'; document.body.append(s)"
    browser.execute_script(attack)
    assert browser.execute_script("return window.hacked") is None


def test_a_huge_line_is_cut_and_says_so(visit: Open) -> None:
    browser = visit(fragment="#problem=r&step=2")
    wait(lambda: texts(browser, "#rollouts details"))
    browser.execute_script("for (const d of document.querySelectorAll('#rollouts details')) d.open = true")
    assert "Cut here; the whole text has 300,000 characters." in one(browser, "#rollouts").text
    assert overflow(browser) == 0


def test_nothing_is_fetched_and_nothing_goes_wrong(visit: Open) -> None:
    browser = visit()
    browser.get_log("browser")
    visit()
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def test_runs_side_by_side_lead_to_their_own(visit: Open) -> None:
    browser = visit("report.html")
    assert texts(browser, "tbody th a") == ["one", "two"]
    assert texts(browser, "tbody td.text") == ["lr=0.0003", "quiet", "lr=0.1", "quiet"]
    browser.find_element("link text", "two").click()
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
    assert browser.current_url.endswith("/two/report.html")
