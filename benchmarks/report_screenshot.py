"""A run's report in a headless Chromium: filters "harmonic right, majority wrong", opens the first such problem, takes a picture.

python benchmarks/report_screenshot.py runs/<run>/report.html --out docs/report.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mlflow_screenshot import chromium, wait_for


def photograph(page: Path, out: Path) -> None:
    """Saves the picture."""
    with chromium() as driver:
        metrics = {"width": 1200, "height": 1240, "deviceScaleFactor": 1.5, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        driver.get(page.resolve().as_uri())
        wait_for(lambda: driver.execute_script("return document.documentElement.dataset.ready") == "yes", 60)
        driver.find_element("css selector", ".chips [data-a='harmonic:right']").click()
        driver.find_element("css selector", ".item").click()
        wait_for(lambda: driver.find_elements("css selector", "#rollouts details"), 20)
        driver.execute_script("document.getElementById('explorer').scrollIntoView()")
        driver.save_screenshot(str(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photograph(args.page, args.out)
    print(args.out)
