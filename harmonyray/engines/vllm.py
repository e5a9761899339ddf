"""Generation with vLLM, in this process: a plain class with the behaviour of `HfEngine`. No ray here.

Every sample has a seed of its own; the samples of a prompt share its key-value blocks by prefix caching. vLLM is stepped by
whoever waits for a group, under a lock: between two steps other threads may add requests or bring new weights. Importing vLLM
takes seconds and changes the process: the constructor does it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from harmonyray.engines.groups import in_order, refused_request, sound_group, too_late
from harmonyray.engines.hf_weights import check_same
from harmonyray.engines.loading import load_tokenizer, weight_shapes
from harmonyray.engines.prompts import PromptTokens, end_tokens, refuse_stale, response_text
from harmonyray.engines.states import ASLEEP, CLOSED, PAUSED, SERVING, EngineState, EngineStateError
from harmonyray.engines.turns import Turns
from harmonyray.engines.vllm_join import VllmReceivesWeights
from harmonyray.engines.vllm_requests import Group, Stream, VllmRequests
from harmonyray.engines.vllm_setup import OWN_ARGUMENTS, check_gpus, require_vllm, start_engine
from harmonyray.engines.weights import checksum, specs
from harmonyray.errors import BrokenEngineError, ConfigError, first_line
from harmonyray.registry import PluginOptions
from harmonyray.types import Failure, Prompt, Rollout, SampleRequest


class VllmEngine(VllmReceivesWeights):
    """Generates with vLLM. `policy_version` is the version of the weights it holds (0: as loaded).

    `max_tokens` is what a prompt and its response may need together, when known; the option max_model_len overrides it.
    With `Sampling.top_p` below 1 (evaluation and views that are not trained) the log-probs are those of the cut distribution.
    Several threads may use one engine at once.
    """

    updates_in_flight: ClassVar[bool] = True
    """Weights may change while samples are generated: what they have said stays, and the rest follows the new weights."""
    require_installed = staticmethod(require_vllm)

    class Options(PluginOptions):
        tensor_parallel_size: PositiveInt = Field(1, description="GPUs (on CPU: processes) that one engine is spread over")
        gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory that vLLM takes")
        max_num_seqs: PositiveInt = Field(256, description="samples that generate at the same time")
        max_model_len: PositiveInt | None = Field(
            None, description="prompt and response tokens at most; null: what a run may need"
        )
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

    def __init__(self, options: Options, model: str, dtype: str = "float32", max_tokens: int | None = None) -> None:
        """Raises ConfigError if vLLM is not installed or does not know an argument, ModelError if it cannot serve the model."""
        self.options = options
        self.tokenizer = load_tokenizer(model)
        self.encode = PromptTokens(self.tokenizer)
        self.shapes = weight_shapes(model, dtype)  # before vLLM starts: it changes some classes of transformers
        self.engine: Any = start_engine(options, model, dtype, max_tokens)
        # Also when the engine is merely forgotten: vLLM would end it whenever cycles are collected, and a later engine with it.
        self._end = weakref.finalize(self, self.engine.engine_core.shutdown)
        self.policy_version = 0
        self.state = EngineState()
        configured = self.engine.model_config.try_get_generation_config() or {}
        self.stop_ids = end_tokens(self.tokenizer, configured.get("eos_token_id"))
        self.lock = Turns()
        self._requests = VllmRequests(self.engine, options.max_num_seqs, self.stop_ids)

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Prompt lengths in tokens."""
        return [len(self.encode(p)) for p in prompts]

    def sample(self, requests: Sequence[SampleRequest], policy_version: int | None) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in the requests' order.

        Raises what `stream` raises, and RunError for a group that fails.
        """
        return in_order(self.stream(list(requests), policy_version))

    def stream(
        self, requests: list[SampleRequest], policy_version: int | None, timeout_s: float | None = None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        """Groups with their requests' indices, as they end. `requests` may grow meanwhile.

        A group that has not ended `timeout_s` seconds after vLLM got its first sample is aborted: a Failure, like one that is
        malformed or does not fit into the model. A rollout has the policy version that it began with. An iterator that is closed
        early takes its requests out of vLLM.
        Raises StaleWeightsError if the engine's weights are not those of `policy_version` when it is called, EngineStateError if
        it is not serving, or is put to sleep or closed meanwhile.
        """
        with self.lock:
            self.state.require(SERVING, "generate")
            refuse_stale(policy_version, self.policy_version)
        return self._serve(requests, timeout_s)

    def _serve(
        self, requests: list[SampleRequest], timeout_s: float | None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        with self.lock:
            stream = self._requests.open()
        num_seen = num_open = 0
        try:
            while num_seen < len(requests) or num_open:
                asked, refused = self._encode(requests, num_seen)
                num_seen += len(asked) + len(refused)
                yield from refused
                ended, late = self._step(stream, asked, timeout_s)
                num_open += len(asked) - len(ended) - len(late)
                for group in ended:
                    yield group.index, self._rollouts(group)
                for group in late:
                    yield group.index, too_late(timeout_s)
        finally:
            stream.closed = True
            with self.lock.if_free() as held:  # else the next one to step does it: waiting here could be for ever
                if held and self.state.name != CLOSED:
                    self._requests.drop_closed()

    def _encode(self, requests: Sequence[SampleRequest], start: int) -> tuple[list[Group], list[tuple[int, Failure]]]:
        """The requests from `start` on, ready to be handed to vLLM, and those that cannot be served."""
        groups, refused = [], []
        for index in range(start, len(requests)):
            request = requests[index]
            ids = self.encode(request.prompt)
            refusal = refused_request(request, len(ids), self.engine.model_config.max_model_len)
            if refusal is None:
                groups.append(Group(index, request, ids))
            else:
                refused.append((index, refusal))
        return groups, refused

    def _step(self, stream: Stream, asked: Sequence[Group], timeout_s: float | None) -> tuple[list[Group], list[Group]]:
        """Adds what is asked and lets vLLM make a step, unless another thread's step has ended some of the stream's groups.

        Returns those that have ended and those that are too late.
        """
        with self.lock, self._not_compiling():
            if self.state.name not in (SERVING, PAUSED):
                raise EngineStateError(f"cannot go on generating: the engine is {self.state.name} now")
            stream.waiting.extend(asked)
            if not stream.ended:
                try:
                    self._requests.step(self.policy_version)
                except Exception as e:  # whatever vLLM raises there: what it holds of its requests is unknown
                    raise BrokenEngineError(f"vLLM failed while it generated: {type(e).__name__}: {first_line(e)}") from e
            ended, stream.ended = stream.ended, []
            return ended, [] if timeout_s is None else self._requests.take_late(stream, timeout_s)

    def _rollouts(self, group: Group) -> tuple[Rollout, ...] | Failure:
        prompt_ids = np.array(group.prompt_ids, dtype=np.int64)
        rollouts = []
        for place, version in enumerate(group.versions):
            completion = group.completions[place]
            if completion.finish_reason not in ("stop", "length"):
                return Failure(f"vLLM ended a response with {completion.finish_reason!r}: expected 'stop' or 'length'")
            token_ids = np.array(completion.token_ids, dtype=np.int64)
            logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
            by_text = isinstance(completion.stop_reason, str)
            ended_by = "length" if completion.finish_reason == "length" else "text" if by_text else "token"
            text = response_text(self.tokenizer, token_ids, ended_by, group.request.sampling.stop)
            prompt, reason = group.request.prompt, completion.finish_reason
            changed = group.last_versions[place] != version
            rollouts.append(Rollout(prompt, prompt_ids, token_ids, logprobs, text, reason, version, changed_policy=changed))
        return sound_group(group.request, rollouts)

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Replaces all weights, drops what was computed with the old ones, and returns the checksum of what was loaded.

        It is that of the tensors handed to vLLM, and it is given only after these checks: vLLM has loaded every element of its
        model, and its layers hold what was sent (`vllm_weights.unlike_sent` says how far; not with several processes).
        Raises KeyError for names that the model does not have or that are missing, ValueError for another shape or dtype, both
        before anything is changed; WeightSyncError if a check fails, after which the engine cannot be used.
        """
        check_same(specs(weights), specs(self.shapes))
        own_order = {name: weights[name] for name in self.shapes}
        with self.lock, self.state.updating():
            unread = self.engine.collective_rpc("replace_weights", args=(own_order,))[0]
            self.drop_cached()
            self.policy_version = policy_version
        self.warn_unread(unread)
        return checksum(own_order)

    def pause(self) -> None:
        """From now on begins no stream, until `resume`; open ones go on. Raises EngineStateError if the engine is not serving."""
        with self.lock:
            self.state.require(SERVING, "pause")
            self.state.move(PAUSED)

    def resume(self) -> None:
        """Ends a pause. Raises EngineStateError if the engine is not paused."""
        with self.lock:
            self.state.require(PAUSED, "resume")
            self.state.move(SERVING)

    def sleep(self) -> None:
        """Frees memory for others until `wake`: on CPU the key-value cache; on a GPU that and the weights, which go to the host's
        memory (vLLM's sleep mode, engine_args.enable_sleep_mode: true).

        Raises ConfigError if sleep mode is off, EngineStateError if the engine is neither serving nor paused, or is generating.
        """
        with self.lock:
            self.state.check(ASLEEP)
            self._requests.drop_closed()
            if self._requests.num_running:
                raise EngineStateError(
                    f"an engine that generates {self._requests.num_running} samples cannot become {ASLEEP}: end its streams first"
                )
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
        with self.lock:
            self.state.require(ASLEEP, "wake")
            if self._on_cpu():
                self.engine.collective_rpc("restore_kv_cache")
            else:
                self.engine.wake_up()
            self.state.move(SERVING)

    def close(self) -> None:
        """Ends vLLM and its processes; other engines in this process cannot be used after that. Calling it twice is fine."""
        with self.lock:
            if self.state.name != CLOSED:
                self.state.move(CLOSED)
                self._end()

    def _on_cpu(self) -> bool:
        return bool(self.engine.vllm_config.device_config.device_type == "cpu")

    def _not_compiling(self) -> AbstractContextManager[Any]:
        """An eager engine on CPU compiles nothing. vLLM would compile one small function of its sampler at the first token, for
        up to 20 s, and it is no faster for it."""
        eager = self._on_cpu() and self.engine.model_config.enforce_eager
        return torch.compiler.set_stance("force_eager") if eager else nullcontext()
