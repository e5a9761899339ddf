"""What tests of pages in a real browser share: their marks, and the module that drives a headless Chromium."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "mlflow_screenshot.py"
IN_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        not all(map(shutil.which, ("chromium", "chromedriver"))), reason="no chromium and chromedriver on the PATH: make browser"
    ),
]


def screenshots() -> Any:
    """benchmarks/mlflow_screenshot.py."""
    spec = importlib.util.spec_from_file_location("mlflow_screenshot", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
