"""The saved view and the report in a real browser.

The view's format is MLflow's own and undocumented: only its UI can say that it works.
"""

import re
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from experiments.comparison.report import page
from experiments.tracking import views
from experiments.tracking.lifetime import open_run
from experiments.tracking.records import KeyedPicture, Metrics, Param, Text
from experiments.tracking.store import prepare_store
from experiments.tracking.ui import save_view
from tests.conftest import PATIENCE_S, free_port, mlflow_server, put_store
from tests.toys.runs import toy_findings

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]

Cell = dict[str, Any]
"""What `GRID` sees of a cell."""
KEYS = ("gradcam/test_00003_cat", "gradcam/test_00010_automobile", "gradcam/test_00021_dog")
LONG = "cutout_with_two_holes_of_16_px"
NAMES = [f"{variant}, seed {seed}" for seed in range(2) for variant in ("baseline", "cutout", LONG)]
COLOURS = {  # one for each run and picture, none like another
    (name, key): (20 + 40 * column, 30 + 80 * row, 255)
    for column, name in enumerate(NAMES)
    for row, key in enumerate(KEYS)
}
WINDOWS = [(1366, 2600), (1920, 2600)]  # so high that nothing of the page waits to be scrolled to
# The grid of pictures, row by row, headings first: of each cell where it stands, its words, whether any of them are cut
# off, and of its picture, once loaded, where it stands and the colour of its middle.
GRID = """
const hides = part => part.scrollWidth > part.clientWidth && getComputedStyle(part).overflowX != "visible";
const colour = image => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
};
const seen = cell => {
  const image = [...cell.querySelectorAll("img")].find(image => image.complete && image.naturalWidth > 0);
  const unseen = cell.querySelector("label")?.textContent ?? "";  // the name of the run's colour, for screen readers
  return {
    box: cell.getBoundingClientRect().toJSON(),
    text: cell.textContent.replace(unseen, ""),
    cut: [cell, ...cell.querySelectorAll("*")].some(part => !part.closest("label") && hides(part)),
    picture: image ? {box: image.getBoundingClientRect().toJSON(), colour: colour(image)} : null,
  };
};
return [...document.querySelectorAll("[role=table] [role=row]")].map(
  row => [...row.querySelectorAll("[role=columnheader], [role=cell]")].map(seen));
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing outside this machine
        "--no-proxy-server",
        "--window-size=1600,2600",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A tab of the test's own, which takes with it what the test has emulated."""
    (first,) = chromium.window_handles
    chromium.switch_to.new_window("tab")
    chromium.set_window_size(1600, 2600)
    chromium.get_log("browser")  # what earlier tests have left
    yield chromium
    chromium.close()
    chromium.switch_to.window(first)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, ready_store: Path) -> Iterator[tuple[Path, str]]:
    """A folder with a ready store, and the address of the UI that shows it."""
    folder = tmp_path_factory.mktemp("served")
    put_store(ready_store, folder)
    with mlflow_server(folder, ["experiments.tracking", "ui"], free_port()) as address:
        yield folder, address


@pytest.fixture
def ui(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the UI; the test logs into what it shows."""
    folder, address = served
    monkeypatch.chdir(folder)
    prepare_store()
    return address


def log_two_runs() -> list[str]:
    """Children of one run, as a comparison leaves them: the UI hides children unless the view prevents it."""
    with open_run(kind="compare", name="the comparison") as parent:
        return log_children(parent.id)


def log_children(parent_id: str) -> list[str]:
    """The ids in the order of the columns, which is not that in which the runs start."""
    ids = []
    for name in reversed(NAMES):
        with open_run(kind="train", name=name, parent_run_id=parent_id) as run:
            run.log([Param("cutout", "cutout" in name)])
            for step in range(3):
                run.log([Metrics({"val/accuracy": 0.5 + 0.1 * step, "val/loss": 2.0 - step}, step=step)])
                # Earlier pictures are black: the view must show those of the last step.
                shown = {key: COLOURS[name, key] if step == 2 else (0, 0, 0) for key in KEYS}
                run.log(KeyedPicture(key, plain(colour), step) for key, colour in shown.items())
                run.log([KeyedPicture("gradcam/not_shown", plain((128, 128, 128)), step)])
        ids.insert(0, run.id)
    return ids


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    """A picture of one colour, higher than wide as those of runs are."""
    return np.full((200, 160, 3), colour, np.uint8)


def loaded_grid(driver: webdriver.Chrome) -> list[list[Cell]]:
    """The grid as soon as every picture in it is there."""
    rows = driver.execute_script(GRID)
    pictures = [cell["picture"] for row in rows[1:] for cell in row[1:]]
    return rows if pictures and all(pictures) else []


def chart_titles(driver: webdriver.Chrome) -> list[str]:
    return [title.text for title in driver.find_elements(By.TAG_NAME, "h4")]


def open_page(driver: webdriver.Chrome, address: str) -> None:
    """MLflow's assistant would lie over the charts; the setting belongs to the server's address."""
    server = address.partition("#")[0]
    driver.get(server)
    driver.execute_script(
        'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");'
        'localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");'
    )
    driver.get(address)


def check_words(rows: list[list[Cell]]) -> None:
    """Rows are keys, columns are runs in the order in which the view was given them; all whole but too long a name."""
    headings, *others = rows
    assert [cell["text"] for cell in headings] == ["images", *NAMES]
    assert [row[0]["text"] for row in others] == list(KEYS)
    labels = [*headings, *(row[0] for row in others)]
    # MLflow ends a heading where its column ends: with many runs in a narrow window after 14 to 17 letters, as the
    # machine's fonts are wide.
    assert [cell["text"] for cell in labels if cell["cut"] and len(cell["text"]) < 14] == []


def check_pictures(rows: list[list[Cell]]) -> None:
    """Each picture is that of its run and key, and lies within its cell; no two cells lie over each other."""
    for key, row in zip(KEYS, rows[1:], strict=True):
        for name, cell in zip(NAMES, row[1:], strict=True):
            own, picture = cell["box"], cell["picture"]
            # Within what is lost by the compression of the thumbnail.
            assert picture["colour"] == pytest.approx(COLOURS[name, key], abs=12), (name, key)
            assert picture["box"]["width"] > 80
            assert own["left"] <= picture["box"]["left"] < picture["box"]["right"] <= own["right"]
            assert own["top"] <= picture["box"]["top"] < picture["box"]["bottom"] <= own["bottom"]
    boxes = [[cell["box"] for cell in row] for row in rows]
    for row in boxes:
        assert all(before["right"] <= after["left"] + 0.5 for before, after in pairwise(row))
    for column in zip(*boxes, strict=True):
        assert len({round(box["left"]) for box in column}) == 1
        assert all(upper["bottom"] <= lower["top"] + 0.5 for upper, lower in pairwise(column))


def check_long_name(driver: webdriver.Chrome) -> None:
    """MLflow shows a name that it has cut off whole where the pointer rests on it."""
    heading = driver.find_elements(By.CSS_SELECTOR, "[role=table] [role=columnheader] [tooltip-data-state]")[2]
    ActionChains(driver).move_to_element(heading).perform()
    shown = WebDriverWait(driver, PATIENCE_S).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, "[role=tooltip]")
    )
    assert shown.get_attribute("textContent") == f"{LONG}, seed 0"


def test_the_saved_view_shows_the_runs_pictures_side_by_side(ui: str, browser: webdriver.Chrome) -> None:
    view = views.comparison_view(
        "baseline against cutout",
        log_two_runs(),
        KEYS,
        step=2,
        curves=["val/accuracy"],
        bars=["val/accuracy"],
        columns=["params.`cutout`", "metrics.`val/accuracy`"],
        hidden_metrics=["val/loss"],
        hidden_keys=["gradcam/not_shown"],
    )
    link = save_view("0", view)
    for size in WINDOWS:
        browser.set_window_size(*size)
        open_page(browser, f"{ui}/{link}")
        rows = WebDriverWait(browser, PATIENCE_S).until(loaded_grid)
        WebDriverWait(browser, PATIENCE_S).until(lambda driver: "val/accuracy" in chart_titles(driver))
        browser.save_screenshot(f"view_{size[0]}.png")
        assert chart_titles(browser) == ["Image grid", "val/accuracy", "val/accuracy"]  # none that the UI adds
        check_words(rows)
        check_pictures(rows)
        check_long_name(browser)


EVIL = "<script>document.title = 'broken'</script> & co"
SIZES = [(375, 800), (1366, 768), (1920, 1080)]
# Parts of the page that reach beyond the window and do not lie in a box of their own that scrolls.
STICKING_OUT = """
return [...document.querySelectorAll("body *")].filter(part =>
  part.getBoundingClientRect().right > innerWidth + 1 && (part.matches(".scroll") || !part.closest(".scroll"))
).map(part => part.outerHTML.slice(0, 90));
"""
UNLOADED = "return [...document.images].filter(image => !(image.complete && image.naturalWidth)).length;"
# How much of the variant's map is covered, from the left; and, at the same moment, what the control says.
COVERED = "return getComputedStyle(document.querySelector('.pair .after')).clipPath;"
SHOWN = """
return [document.querySelector("#blink output").textContent,
        getComputedStyle(document.querySelector(".pair .after")).clipPath];
"""


def report_page() -> str:
    """A report with wide pictures and tables, long names and names that are markup."""
    findings = toy_findings((EVIL, "resnet18_onecycle_with_cutout_two_holes_of_16_and_more_regularisation"))
    wide = np.full((300, 2600, 3), 200, np.uint8)
    shown = dict.fromkeys(("side_by_side.png", "side_by_side/stem.png", "charts/forest.png"), wide)
    cells = {f"a measure with a long name {i}": "0.123 ± 0.004" for i in range(12)}
    rows = [{"variant": name} | cells for name in findings.variants]
    address, chosen = "http://127.0.0.1:5000/#/x", f"runs={EVIL}={'1a2b3c4d+' * 40}"
    command = f"python -m experiments.compare --{chosen}"
    return page.html("the report", findings, rows, shown, address, " (start it)", command=command, chosen=chosen)


def open_report(driver: webdriver.Chrome, folder: Path, size: tuple[int, int] = (1366, 768)) -> None:
    file = folder / "report.html"
    file.write_text(report_page(), encoding="utf-8")
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(file.as_uri())


def unfold(driver: webdriver.Chrome) -> None:
    driver.execute_script("document.querySelectorAll('details').forEach(part => part.open = true);")


def check_whole(driver: webdriver.Chrome) -> None:
    """Everything has loaded and no name has become markup."""
    assert driver.execute_script(UNLOADED) == 0
    assert driver.title == "the report"
    assert EVIL in driver.find_element(By.CLASS_NAME, "answers").text


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_the_report_opens_from_disk_and_never_scrolls_sideways(
    browser: webdriver.Chrome, tmp_path: Path, size: tuple[int, int]
) -> None:
    open_report(browser, tmp_path, size)
    check_whole(browser)
    unfold(browser)
    assert browser.execute_script(STICKING_OUT) == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = browser.find_elements(By.CLASS_NAME, "scroll")
    wider = [box for box in boxes if browser.execute_script("return arguments[0].scrollWidth", box) > box.size["width"]]
    assert wider  # what is too wide can be scrolled to
    assert browser.get_log("browser") == []


def test_the_reports_maps_are_compared_by_a_line_and_by_blinking(browser: webdriver.Chrome, tmp_path: Path) -> None:
    open_report(browser, tmp_path)
    unfold(browser)
    names = [image.get_attribute("alt").split(": ")[0] for image in browser.find_elements(By.CSS_SELECTOR, ".pair img")]
    controls = browser.find_element(By.ID, "blink")
    slider, button = (controls.find_element(By.TAG_NAME, tag) for tag in ("input", "button"))
    assert browser.execute_script(COVERED) == "inset(0px 0px 0px 50%)"
    slider.send_keys(Keys.HOME)
    assert browser.execute_script(COVERED) == "inset(0px 0px 0px 0%)"
    button.click()
    for covered, name in (("100%", names[0]), ("0%", names[1])):
        expected = [f"shown: {name}", f"inset(0px 0px 0px {covered})"]
        WebDriverWait(browser, PATIENCE_S).until(
            lambda driver, expected=expected: driver.execute_script(SHOWN) == expected
        )
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert browser.execute_script(COVERED) == "inset(0px 0px 0px 0%)"  # where the line was left


def test_the_report_works_without_scripts_and_shows_no_dead_control(browser: webdriver.Chrome, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    open_report(browser, tmp_path)
    assert not browser.find_element(By.ID, "blink").is_displayed()
    check_whole(browser)
    folded = browser.find_elements(By.CSS_SELECTOR, "details:not([open]):not([hidden])")[0]
    folded.find_element(By.TAG_NAME, "summary").click()
    assert folded.get_attribute("open")


def test_the_report_is_dark_where_that_is_asked_for_but_prints_light_and_what_is_open(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    background = "return getComputedStyle(document.body).backgroundColor;"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    open_report(browser, tmp_path)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    assert max(int(part) for part in re.findall(r"\d+", browser.execute_script(background))) < 64
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert browser.execute_script(background) == "rgb(255, 255, 255)"
    folded = browser.find_element(By.CSS_SELECTOR, "details:not([open]) table")
    assert not folded.is_displayed()
    unfold(browser)
    assert folded.is_displayed()
    assert not browser.find_element(By.ID, "blink").is_displayed()


def test_mlflow_shows_the_report(ui: str, browser: webdriver.Chrome) -> None:
    with open_run(kind="compare", name="the comparison") as run:
        run.log([Text("report.html", report_page())])
    open_page(browser, f"{ui}/#/experiments/0/runs/{run.id}/artifacts/report.html")
    frame = WebDriverWait(browser, PATIENCE_S).until(lambda driver: driver.find_element(By.TAG_NAME, "iframe"))
    browser.switch_to.frame(frame)
    WebDriverWait(browser, PATIENCE_S).until(lambda driver: driver.find_elements(By.CLASS_NAME, "answers"))
    assert browser.execute_script(UNLOADED) == 0
    assert EVIL in browser.find_element(By.CLASS_NAME, "answers").text
    assert browser.find_element(By.ID, "blink").is_displayed()  # MLflow lets scripts run in there
    browser.find_element(By.LINK_TEXT, "the pictures side by side").click()  # but no links: the page must stay
    time.sleep(1)
    assert EVIL in browser.find_element(By.CLASS_NAME, "answers").text
