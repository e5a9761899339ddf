"""What a training is refused for before anything of it is started."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from harmonyray import build
from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.preflight import load_checked


@pytest.mark.parametrize(("package", "part"), [("vllm", "rollout.engine.type=vllm"), ("deepspeed", "learner.type=deepspeed")])
def test_a_package_that_is_missing_here(monkeypatch: pytest.MonkeyPatch, package: str, part: str) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *args: Any) -> Any:
        return None if name == package else find(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("quickstart", [part])
    with pytest.raises(ConfigError, match=rf"not installed: pip install 'harmonyray\[{package}"):
        load_checked(config)
    load_checked(load_config("quickstart", []))
    if package == "deepspeed":
        build.check_installed(config, learn=False)  # an evaluation has no learner
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    build.check_installed(config)  # the cluster's nodes look for themselves
