"""Generation with vLLM, in this process: a plain class with the behaviour of `HfEngine`. No ray here.

All groups of a call are submitted at once, one request for each sample with a seed of its own; the samples of a prompt share
its key-value blocks by prefix caching. Importing vLLM takes seconds and changes the process: the constructor does it.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from harmonyray.engines.loading import load_tokenizer, weight_shapes
from harmonyray.engines.prompts import encode_prompt, refuse_stale, response_text
from harmonyray.engines.states import ASLEEP, CLOSED, PAUSED, SERVING, EngineState
from harmonyray.engines.vllm_setup import OWN_ARGUMENTS, check_gpus, start_engine
from harmonyray.engines.vllm_weights import check_complete
from harmonyray.engines.weights import checksum
from harmonyray.errors import ConfigError, RunError
from harmonyray.registry import PluginOptions
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling


class VllmEngine:
    """Generates with vLLM. `policy_version` is the version of the weights it holds (0: as loaded).

    With `Sampling.top_p` below 1 (evaluation and views that are not trained) the log-probs are those of the cut distribution.
    """

    class Options(PluginOptions):
        tensor_parallel_size: PositiveInt = Field(1, description="GPUs (on CPU: processes) that one engine is spread over")
        gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory that vLLM takes")
        max_num_seqs: PositiveInt = Field(256, description="samples that generate at the same time")
        max_model_len: PositiveInt | None = Field(None, description="prompt and response tokens at most; null: the model's limit")
        enforce_eager: bool | None = Field(None, description="no compiling and no CUDA graphs; null: on CPU only")
        kv_cache_gib: PositiveFloat | None = Field(
            None, description="size of the key-value cache; null: 1 on CPU, from gpu_memory_utilization on a GPU"
        )
        engine_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm.EngineArgs")

        @field_validator("engine_args")
        @classmethod
        def _not_our_own(cls, given: dict[str, Any]) -> dict[str, Any]:
            for name in given:
                if name in OWN_ARGUMENTS:
                    raise ConfigError(f"'engine_args.{name}' cannot be given here: {OWN_ARGUMENTS[name]}")
            return given

    @staticmethod
    def check_gpus(options: Options, where: str, num_gpus: float, colocated: bool) -> None:
        """Raises ConfigError if an engine cannot run on the GPUs that `where` gives a replica (0: on a CPU, nothing is said)."""
        check_gpus(options, where, num_gpus, colocated)

    def __init__(self, options: Options, model: str, dtype: str = "float32") -> None:
        """Raises ConfigError if vLLM is not installed or does not know an argument, ModelError if it cannot serve the model."""
        self.options = options
        self.tokenizer = load_tokenizer(model)
        self.shapes = weight_shapes(model, dtype)  # before vLLM starts: it changes some classes of transformers
        self.engine: Any = start_engine(options, model, dtype)
        # Also when the engine is merely forgotten: vLLM would end it whenever cycles are collected, and a later engine with it.
        self._end = weakref.finalize(self, self.engine.engine_core.shutdown)
        self.policy_version = 0
        self.state = EngineState()
        settings = self.engine.model_config
        configured = (settings.try_get_generation_config() or {}).get("eos_token_id")
        stop = {self.tokenizer.eos_token_id}
        stop.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
        self.stop_ids = sorted(stop)

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Prompt lengths in tokens."""
        return [len(encode_prompt(self.tokenizer, p)) for p in prompts]

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in the requests' order.

        Raises StaleWeightsError if the engine's weights are not those of `policy_version`, EngineStateError if it is not serving,
        ConfigError if a prompt and its response do not fit into the model.
        """
        self.state.require(SERVING, "generate")
        refuse_stale(policy_version, self.policy_version)
        prompt_ids = [encode_prompt(self.tokenizer, r.prompt) for r in requests]
        self._check_room(max(map(len, prompt_ids), default=0), sampling)
        asked = [(ids, seed) for ids, r in zip(prompt_ids, requests, strict=True) for seed in r.seeds]
        completions = iter(self._generate(asked, sampling))
        out = []
        for ids, r in zip(prompt_ids, requests, strict=True):
            array = np.array(ids, dtype=np.int64)
            out.append(tuple(self._rollout(r.prompt, array, next(completions), sampling.stop) for _ in r.seeds))
        return out

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Replaces all weights, drops what was computed with the old ones, and returns the checksum of what was loaded.

        It is that of the tensors handed to vLLM, and it is given only after these checks: vLLM has loaded every element of its
        model, and its layers hold what was sent (`vllm_weights.unlike_sent` says how far; not with several processes).
        Raises KeyError for names that the model does not have or that are missing, ValueError for another shape or dtype, both
        before anything is changed; WeightSyncError if a check fails, after which the engine cannot be used.
        """
        check_complete(weights, self.shapes)
        own_order = {name: weights[name] for name in self.shapes}
        with self.state.updating():
            unread = self.engine.collective_rpc("replace_weights", args=(own_order,))[0]
            if not self.engine.reset_prefix_cache():
                raise RunError("vLLM did not drop its prefix cache: requests are still running")
        self.policy_version = policy_version
        if unread:
            warnings.warn(
                f"{len(unread)} of {len(own_order)} weights, {unread[0]!r} for one, cannot be read back from vLLM: their "
                "checksum says what was handed to it and loaded, not what it computes with",
                stacklevel=2,
            )
        return checksum(own_order)

    def pause(self) -> None:
        """From now on refuses to generate, until `resume`. Raises EngineStateError if the engine is not serving."""
        self.state.require(SERVING, "pause")
        self.state.move(PAUSED)

    def resume(self) -> None:
        """Ends a pause. Raises EngineStateError if the engine is not paused."""
        self.state.require(PAUSED, "resume")
        self.state.move(SERVING)

    def sleep(self) -> None:
        """Frees memory for others until `wake`: on CPU the key-value cache; on a GPU that and the weights, which go to the host's
        memory (vLLM's sleep mode, engine_args.enable_sleep_mode: true).

        Raises ConfigError if sleep mode is off, EngineStateError if the engine is neither serving nor paused.
        """
        self.state.check(ASLEEP)
        if self._on_cpu():
            self.engine.reset_prefix_cache()
            self.engine.collective_rpc("release_kv_cache")
        elif self.engine.model_config.enable_sleep_mode:
            self.engine.sleep(level=1)
        else:
            raise ConfigError("the engine cannot sleep: set rollout.engine.engine_args.enable_sleep_mode to true")
        self.state.move(ASLEEP)

    def wake(self) -> None:
        """Takes the memory back and serves. Raises EngineStateError if the engine is not asleep."""
        self.state.require(ASLEEP, "wake")
        if self._on_cpu():
            self.engine.collective_rpc("restore_kv_cache")
        else:
            self.engine.wake_up()
        self.state.move(SERVING)

    def close(self) -> None:
        """Ends vLLM and its processes; other engines in this process cannot be used after that. Calling it twice is fine."""
        if self.state.name != CLOSED:
            self.state.move(CLOSED)
            self._end()

    def _generate(self, asked: Sequence[tuple[list[int], int]], sampling: Sampling) -> list[Any]:
        """vLLM's completion for each of the (prompt ids, seed), in order."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        done: dict[int, Any] = {}
        with self._not_compiling():
            try:
                for i, (ids, seed) in enumerate(asked):
                    params = SamplingParams(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        max_tokens=sampling.max_tokens,
                        seed=seed,
                        logprobs=0,  # the sampled token's only
                        flat_logprobs=True,
                        stop=list(sampling.stop),
                        stop_token_ids=self.stop_ids,
                        detokenize=bool(sampling.stop),
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    self.engine.add_request(str(i), tokens_input(ids), params)
                while self.engine.has_unfinished_requests():
                    done.update((int(o.request_id), o.outputs[0]) for o in self.engine.step() if o.finished)
            finally:
                self.engine.abort_request([str(i) for i in range(len(asked)) if i not in done])
        return [done[i] for i in range(len(asked))]

    def _rollout(self, prompt: Prompt, prompt_ids: np.ndarray, completion: Any, stops: Sequence[str]) -> Rollout:
        token_ids = np.array(completion.token_ids, dtype=np.int64)
        logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
        if completion.finish_reason not in ("stop", "length") or len(logprobs) != len(token_ids):
            raise RunError(
                f"vLLM ended a response with {completion.finish_reason!r}, {len(token_ids)} tokens and {len(logprobs)} "
                "log-probs: expected 'stop' or 'length' and one log-prob a token"
            )
        by_text = isinstance(completion.stop_reason, str)
        ended_by = "length" if completion.finish_reason == "length" else "text" if by_text else "token"
        text = response_text(self.tokenizer, token_ids, ended_by, stops)
        return Rollout(prompt, prompt_ids, token_ids, logprobs, text, completion.finish_reason, self.policy_version)

    def _check_room(self, longest: int, sampling: Sampling) -> None:
        """vLLM would cut responses at the model's length without a word."""
        limit = self.engine.model_config.max_model_len
        if longest + sampling.max_tokens > limit:
            raise ConfigError(
                f"a prompt of {longest} tokens and a response of up to {sampling.max_tokens} need more than the {limit} tokens "
                "that the engine holds: raise rollout.engine.max_model_len (if the model allows it), or lower "
                "rollout.max_prompt_tokens or rollout.max_response_tokens"
            )

    def _on_cpu(self) -> bool:
        return bool(self.engine.vllm_config.device_config.device_type == "cpu")

    def _not_compiling(self) -> AbstractContextManager[Any]:
        """An eager engine on CPU compiles nothing. vLLM would compile one small function of its sampler at the first token, for
        up to 20 s, and it is no faster for it."""
        eager = self._on_cpu() and self.engine.model_config.enforce_eager
        return torch.compiler.set_stance("force_eager") if eager else nullcontext()
