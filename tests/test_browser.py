"""The saved view in a real browser: the format is MLflow's own and undocumented, only its UI can say that it works."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from experiments import tracking, views
from experiments.records import KeyedPicture, Metrics, Param
from tests.conftest import free_port, mlflow_server

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]

KEYS = ("gradcam/test_0003_cat", "gradcam/test_0010_dog")
COLOURS = {  # one for each run and picture, none like another
    "baseline": [(200, 30, 30), (230, 160, 20)],
    "cutout": [(30, 60, 200), (20, 160, 160)],
}
# Every picture on the page that is loaded: its middle's colour and where it stands.
PICTURES = """
return [...document.querySelectorAll("img")].filter(img => img.complete && img.naturalWidth > 0).map(img => {
  const canvas = document.createElement("canvas");
  canvas.width = img.naturalWidth; canvas.height = img.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(img, 0, 0);
  const middle = context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
  const box = img.getBoundingClientRect();
  return {colour: [...middle].slice(0, 3), left: box.left, top: box.top, width: box.width};
});
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
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
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def log_two_runs():
    """Children of one run, as a comparison leaves them: the UI hides children unless the view prevents it."""
    with tracking.open_run(kind="compare", name="the comparison") as parent:
        return log_children(parent.id)


def log_children(parent_id):
    """The ids in the order of the columns, which is not that in which the runs start."""
    ids = []
    for name, colours in reversed(COLOURS.items()):
        with tracking.open_run(kind="train", name=name, parent_run_id=parent_id) as run:
            run.log([Param("cutout", name == "cutout")])
            for step in range(3):
                run.log([Metrics({"val/accuracy": 0.5 + 0.1 * step, "val/loss": 2.0 - step}, step=step)])
                # Earlier pictures are black: the view must show those of the last step.
                shown = colours if step == 2 else [(0, 0, 0)] * 2
                run.log(
                    KeyedPicture(key, np.full((32, 32, 3), colour, np.uint8), step)
                    for key, colour in zip(KEYS, shown, strict=True)
                )
                run.log([KeyedPicture("gradcam/not_shown", np.full((32, 32, 3), 128, np.uint8), step)])
        ids.insert(0, run.id)
    return ids


def close(colour, other):
    """Whether two colours are one, but for the loss of the thumbnail's compression."""
    return max(abs(a - b) for a, b in zip(colour, other, strict=True)) <= 12


def pictures_of_ours(driver):
    """Where each picture of a run and key stands; an empty answer until all are there."""
    found = driver.execute_script(PICTURES)
    places = {}
    for name, colours in COLOURS.items():
        for key, colour in zip(KEYS, colours, strict=True):
            matching = [picture for picture in found if close(picture["colour"], colour)]
            if matching:
                places[name, key] = matching
    return places if len(places) == 4 else {}


def chart_titles(driver):
    return [title.text for title in driver.find_elements(By.TAG_NAME, "h4")]


def open_page(driver, address):
    """MLflow's assistant would lie over the charts; the setting belongs to the server's address."""
    server = address.partition("#")[0]
    driver.get(server)
    driver.execute_script(
        'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");'
        'localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");'
    )
    driver.get(address)


def check_matrix(at):
    """Rows are keys, columns are runs in the order in which the view was given them."""
    for key in KEYS:
        first, second = at["baseline", key], at["cutout", key]
        assert first["top"] == pytest.approx(second["top"], abs=1)
        assert first["left"] + first["width"] <= second["left"]
    for name in COLOURS:
        upper, lower = (at[name, key] for key in KEYS)
        assert upper["left"] == pytest.approx(lower["left"], abs=1)
        assert upper["top"] + upper["width"] <= lower["top"]


def check_heading(driver, name, picture):
    """The run's name stands above its column (and in the list of runs, far left)."""
    found = [box.rect for box in driver.find_elements(By.XPATH, f"//*[text()='{name}']")]
    right = picture["left"] + picture["width"]
    above = [box for box in found if picture["left"] - 50 <= box["x"] < right and box["y"] < picture["top"]]
    assert above, f"no heading {name!r} above {picture}: {found}"


def test_the_saved_view_shows_the_runs_pictures_side_by_side(store, browser):
    tracking.prepare_store()
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
    link = tracking.write_view("0", view)
    with mlflow_server(store, ["experiments.tracking", "ui"], free_port()) as address:
        open_page(browser, f"{address}/{link}")
        places = WebDriverWait(browser, 90).until(pictures_of_ours)
        WebDriverWait(browser, 30).until(lambda driver: "val/accuracy" in chart_titles(driver))
        browser.save_screenshot(str(store / "view.png"))
        assert chart_titles(browser) == ["Image grid", "val/accuracy", "val/accuracy"]  # none that the UI adds
        assert all(len(pictures) == 1 for pictures in places.values())
        at = {place: pictures[0] for place, pictures in places.items()}
        check_matrix(at)
        for name in COLOURS:
            check_heading(browser, name, at[name, KEYS[0]])
