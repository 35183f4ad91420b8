"""The page in a real browser: it loads from a file, shows the structures, and hides one that is clicked.

Pixels are counted on screenshots of what the browser has drawn. Chromium draws WebGL in software here.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.io import imread

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs Chromium and its driver (chromium, chromedriver)", allow_module_level=True)
if importlib.util.find_spec("selenium") is None:
    pytest.skip("needs selenium (the extra `test`)", allow_module_level=True)

PATIENCE_S = 90
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=800,1000",
    "--hide-scrollbars",
    # the page must do without: every name leads nowhere
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
TUMOR, KIDNEY = 1, 0  # places among the structures


def start(*switches: str) -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def open_page(browser: Any, made: Any) -> str:
    """Open the report and wait for its viewer; the state that it ends in."""
    browser.get(made.file(".html").as_uri())
    end = time.monotonic() + PATIENCE_S
    state = "loading"
    while state == "loading" and time.monotonic() < end:
        time.sleep(0.1)
        state = browser.execute_script("return document.getElementById('viewer').dataset.state")
    return state


@pytest.fixture(scope="module")
def browser(made: Any) -> Iterator[Any]:
    driver = start()
    try:
        assert open_page(driver, made) == "ready"
        yield driver
    finally:
        driver.quit()


def within_sight(browser: Any, element: Any) -> Any:
    """An element scrolled into the window: pictures of it and clicks end at the window's border."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def seen(browser: Any, identifier: str) -> NDArray[np.int_]:
    """What an element looks like, (rows, columns, 3)."""
    element = within_sight(browser, browser.find_element("id", identifier))
    return imread(io.BytesIO(element.screenshot_as_png))[..., :3].astype(int)


def click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()
    # what was drawn for this click is on the screen after two frames
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def yellow(picture: NDArray[np.int_]) -> int:
    """Pixels of the tumor's colour, in any light."""
    red, green, blue = (picture[..., i] for i in range(3))
    return int(((red > 80) & (green > 0.6 * red) & (blue < 0.62 * green)).sum())


def test_it_loads_without_a_complaint_and_without_anything_from_elsewhere(browser: Any) -> None:
    assert [entry for entry in browser.get_log("browser")] == []
    names = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert not [name for name in names if not name.startswith(("data:", "blob:"))]


def test_a_case_named_like_a_script_is_a_heading(browser: Any, made: Any) -> None:
    assert browser.title == made.report.case
    assert browser.find_element("tag name", "h1").text == made.report.case
    toggle = browser.find_element("css selector", f"[data-structure='{TUMOR}']")
    assert "<b>tumor</b>" in toggle.text


def test_the_canvases_show_the_structures(browser: Any) -> None:
    for identifier, least in (("body", 1000), ("slices", 150)):
        picture = seen(browser, identifier)
        assert picture.std() > 10
        assert yellow(picture) > least, identifier


def test_hiding_and_showing_a_structure(browser: Any) -> None:
    def both() -> list[NDArray[np.int_]]:
        return [seen(browser, identifier) for identifier in ("body", "slices")]

    before = both()
    click(browser, f"[data-structure='{TUMOR}']")
    hidden = both()
    click(browser, f"[data-structure='{TUMOR}']")
    after = both()
    click(browser, f"[data-structure='{KIDNEY}']")
    other = both()
    click(browser, f"[data-structure='{KIDNEY}']")
    for i in range(2):
        assert yellow(hidden[i]) < 0.1 * yellow(before[i])
        assert np.abs(after[i] - before[i]).max() < 8  # as it was
        assert yellow(other[i]) > 0.8 * yellow(before[i])  # another one leaves it alone
        assert (np.abs(other[i] - before[i]).max(axis=-1) > 20).mean() > 0.01


def test_the_patients_right_is_on_the_left_until_one_looks_from_behind(browser: Any) -> None:
    def side(look: str) -> float:
        click(browser, f"[data-look='{look}']")
        picture = seen(browser, "body")
        red, green, blue = (picture[..., i] for i in range(3))
        columns = np.nonzero((red > 80) & (green > 0.6 * red) & (blue < 0.62 * green))[1]
        return float(columns.mean()) / picture.shape[1]

    assert side("back") < 0.45  # the tumor is on the patient's left
    assert side("front") > 0.55


def test_the_scan_stands_behind_and_goes_again(browser: Any) -> None:
    bare = seen(browser, "body")
    click(browser, "#scan")
    behind = seen(browser, "body")
    assert (np.abs(behind - bare).max(axis=-1) > 30).mean() > 0.1
    click(browser, "#scan")
    assert np.abs(seen(browser, "body") - bare).max() < 8


def test_turning(browser: Any) -> None:
    still = seen(browser, "body")
    click(browser, "#turn")
    time.sleep(0.7)
    click(browser, "#turn")
    assert (np.abs(seen(browser, "body") - still).max(axis=-1) > 30).mean() > 0.005
    click(browser, "[data-look='front']")


def test_a_click_on_the_slices_tells_the_place(browser: Any) -> None:
    within_sight(browser, browser.find_element("id", "slices")).click()
    place: Callable[[], str] = lambda: browser.find_element("id", "place").text  # noqa: E731
    assert "mm (LPS): " in place()


LETTERS = {  # what lies to the left, right, top and bottom when one looks from there
    "front": "RLHF", "back": "LRHF", "right": "PAHF", "left": "APHF", "head": "RLPA", "feet": "RLAP",
}  # fmt: skip


@pytest.mark.parametrize("look", LETTERS)
def test_letters_name_the_sides_where_the_tumor_lies(browser: Any, look: str) -> None:
    """The tumor lies left, in front and towards the head of the kidneys' middle."""
    click(browser, f"[data-look='{look}']")
    letters = [
        browser.find_element("css selector", f".letter.{side}").text
        for side in ("left", "right", "top", "bottom")
    ]
    assert "".join(letters) == LETTERS[look]
    red, green, blue = (seen(browser, "body")[..., i] for i in range(3))
    tumor = (red > 80) & (green > 0.6 * red) & (blue < 0.62 * green)
    all_of_it = red > 40
    away = np.argwhere(tumor).mean(axis=0) - np.argwhere(all_of_it).mean(axis=0)
    down, along = (0.0 if abs(value) < 3 else np.sign(value) for value in away)
    assert along * (1 if letters[1] in "LA" else -1) >= 0
    assert down * (-1 if letters[2] in "HA" else 1) >= 0
    click(browser, "[data-look='front']")


def test_without_webgl_the_still_picture_stands_in(made: Any) -> None:
    driver = start("--disable-3d-apis")
    try:
        assert open_page(driver, made) == "failed"
        assert "does not show the 3-D view" in driver.find_element("id", "failure").text
        still = within_sight(driver, driver.find_element("css selector", ".stage img"))
        picture = imread(io.BytesIO(still.screenshot_as_png))[..., :3].astype(int)
        assert yellow(picture) > 300
    finally:
        driver.quit()
