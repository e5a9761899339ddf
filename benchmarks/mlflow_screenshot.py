"""A run or a sweep in the MLflow UI, seen with a headless Chromium: starts `mlflow ui`, opens the run's metrics, or the sweep's
run with those of its trials under it, and takes a picture.

    python benchmarks/mlflow_screenshot.py runs/<run> --out docs/mlflow.png
    python benchmarks/mlflow_screenshot.py runs/<sweep> --out docs/mlflow-sweep.png
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1700",
)

UNFOLD = "button[data-component-id*='runnamecellrenderer']"
"""The button before the name of a run that has others under it."""


@contextmanager
def mlflow_ui(store: Path) -> Iterator[str]:
    """A real `mlflow ui` on a free local port; yields its address once it answers."""
    with socket.socket() as held:  # bound and never listening: nobody else is given the port before the server listens on it
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        place = ["--backend-store-uri", f"sqlite:///{store}", "--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "mlflow", "ui", *place, "--workers", "1"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200, 120)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; needs chromium and chromedriver on the PATH."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(ready: Any, seconds: float) -> None:
    """Waits until `ready()` is true; connection errors mean not yet. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"not ready after {seconds:g} s")


def photograph(directory: Path, out: Path) -> str:
    """Saves a picture of what is in the directory of a run or a sweep, and returns the page's text."""
    from mlflow.tracking import MlflowClient

    is_sweep = (directory / "trials.json").exists()
    store = (directory if is_sweep else directory.resolve().parent) / "mlflow.db"
    record = json.loads((directory / ("trials.json" if is_sweep else "summary.json")).read_text())
    run = MlflowClient(f"sqlite:///{store}").get_run(record["mlflow_run_id"])
    with mlflow_ui(store) as address, chromium() as driver:
        experiment = f"{address}/#/experiments/{run.info.experiment_id}"
        if is_sweep:
            text = open_sweep(driver, experiment, run.info.run_name, list(record["trials"]))
        else:
            text = open_run(driver, f"{experiment}/runs/{run.info.run_id}")
        out.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(out))
    return text


def open_run(driver: Any, page: str) -> str:
    """The run's metric charts; the text of its overview."""
    driver.get(page)
    wait_for(lambda: "label_accuracy" in _text(driver), 120)
    text = _text(driver)
    driver.get(f"{page}/model-metrics")
    wait_for(lambda: len(driver.find_elements("css selector", ".js-plotly-plot, canvas, svg.main-svg")) > 2, 120)
    time.sleep(2)  # the charts' entry animation
    return text


def open_sweep(driver: Any, experiment: str, name: str, trials: Sequence[str]) -> str:
    """The experiment's runs with those of the sweep's trials unfolded; the text of that."""
    from selenium.common.exceptions import WebDriverException

    def unfolded() -> bool:
        try:
            driver.find_element("css selector", UNFOLD).click()
        except WebDriverException:  # the table is just being drawn
            return False
        return True

    def seen() -> bool:
        lines = _text(driver).splitlines()
        return sum(trial in lines for trial in trials) >= min(len(trials), 20)  # only what is in sight is drawn

    driver.get(f"{experiment}/runs?viewMode=table")
    wait_for(lambda: name in _text(driver), 120)
    wait_for(unfolded, 120)
    wait_for(seen, 120)
    return _text(driver)


def _text(driver: Any) -> str:
    text: str = driver.find_element("tag name", "body").text
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of a run or a sweep that has ended")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photograph(args.directory, args.out)
    print(args.out)
