"""A run in the MLflow UI, seen with a headless Chromium: starts `mlflow ui`, opens the run's metrics, takes a picture.

python benchmarks/mlflow_screenshot.py runs/<run> --out docs/mlflow.png
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
from collections.abc import Iterator
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


@contextmanager
def mlflow_ui(store: Path) -> Iterator[str]:
    """A real `mlflow ui` on a free local port; yields its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--backend-store-uri", f"sqlite:///{store}", "--port", str(port)]
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


def photograph(run_dir: Path, out: Path) -> str:
    """Saves a picture of the run's metric charts and returns the page's text."""
    from mlflow.tracking import MlflowClient

    store = run_dir.resolve().parent / "mlflow.db"
    run_id = json.loads((run_dir / "summary.json").read_text())["mlflow_run_id"]
    experiment = MlflowClient(f"sqlite:///{store}").get_run(run_id).info.experiment_id
    with mlflow_ui(store) as address, chromium() as driver:
        driver.get(f"{address}/#/experiments/{experiment}/runs/{run_id}")
        wait_for(lambda: "label_accuracy" in driver.find_element("tag name", "body").text, 120)
        text: str = driver.find_element("tag name", "body").text
        driver.get(f"{address}/#/experiments/{experiment}/runs/{run_id}/model-metrics")
        wait_for(lambda: len(driver.find_elements("css selector", ".js-plotly-plot, canvas, svg.main-svg")) > 2, 120)
        time.sleep(2)  # the charts' entry animation
        out.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(out))
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photograph(args.run_dir, args.out)
    print(args.out)
