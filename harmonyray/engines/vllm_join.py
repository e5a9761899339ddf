"""How a vLLM engine takes part in weight broadcasts: it drives its workers through vLLM's weight-transfer calls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, ClassVar

import torch

from harmonyray.engines.hf_weights import check_same
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.states import UPDATING, EngineState
from harmonyray.engines.turns import Turns
from harmonyray.engines.weight_group import first_line
from harmonyray.engines.weights import TensorSpec, specs
from harmonyray.errors import RunError, WeightSyncError

ANSWER_S = 5.0  # workers that give up after the group's timeout have said so within that time


class VllmReceivesWeights:
    """A part of `VllmEngine`."""

    engine: Any
    state: EngineState
    shapes: Mapping[str, torch.Tensor]
    policy_version: int
    lock: Turns  # held by whoever steps vLLM
    weight_transports: ClassVar[tuple[str, ...]] = ("gloo",)
    _group: GroupSpec

    @property
    def num_weight_ranks(self) -> int:
        """How many ranks of a broadcast group the engine takes: one for each of vLLM's workers."""
        return int(self.engine.vllm_config.parallel_config.world_size)

    def join_weights(self, group: GroupSpec, rank: int) -> None:
        """Joins a broadcast group with all workers, from `rank` on. Raises WeightSyncError."""
        self._group = group
        info = {"transport": group.backend, "group": asdict(group), "rank_offset": rank}
        self._try("init_weight_transfer_engine", init_info=info)

    def receive_weights(self, sent: Sequence[TensorSpec], bucket_bytes: int, policy_version: int) -> int:
        """Takes part in one broadcast of exactly the model's tensors; returns the checksum of what was received and loaded, with
        the checks of `VllmEngine.load_weights`.

        Other threads may generate meanwhile. With gloo and one worker only the change of the weights holds `lock`; a broadcast
        that fails changes nothing. Raises KeyError or ValueError for other tensors than the model has, WeightSyncError.
        """
        self.state.check(UPDATING)
        try:
            check_same(sent, specs(self.shapes))
        except (KeyError, ValueError) as e:
            self._ask("refuse_weights", why=first_line(e))
            raise
        with ExitStack() as held:
            if self.num_weight_ranks > 1:  # vLLM's calls to other processes must not cross
                held.enter_context(self.lock)
            self._ask("start_weight_update")
            try:
                self._try("update_weights", update_info=_update_info(sent, bucket_bytes))
            except WeightSyncError:
                self._ask("finish_weight_update")
                raise
            if self.num_weight_ranks == 1:
                held.enter_context(self.lock)
            with self.state.updating():
                self._try("finish_weight_update")
                self.drop_cached()
                self.engine.set_weight_version(str(policy_version))
            self.policy_version = policy_version
            reports = self._ask("weights_report")
        for i, (checksum, _) in enumerate(reports):
            if checksum != reports[0][0]:
                raise WeightSyncError(
                    f"vLLM's worker {i} received other bytes (checksum {checksum}) than worker 0 ({reports[0][0]})"
                )
        self.warn_unread(reports[0][1])
        return int(reports[0][0])

    def drop_cached(self) -> None:
        """Forgets what was computed with other weights; what running requests have said is computed again."""
        if not self.engine.reset_prefix_cache(reset_running_requests=True):
            raise RunError("vLLM did not drop its prefix cache")

    def warn_unread(self, unread: Sequence[str]) -> None:
        if unread:
            warnings.warn(
                f"{len(unread)} of {len(self.shapes)} weights, {unread[0]!r} for one, cannot be read back from vLLM: their "
                "checksum says what was handed to it and loaded, not what it computes with",
                stacklevel=3,
            )

    def _try(self, method: str, **kwargs: Any) -> None:
        """The same for a call in which a worker may fail. Raises WeightSyncError with the first worker's failure."""
        self._ask(method, **kwargs)
        for failure in self._ask("weights_failure"):
            if failure is not None:
                raise WeightSyncError(failure)

    def _ask(self, method: str, **kwargs: Any) -> list[Any]:
        """The workers' answers. Loading has no limit here; everything else gives up by itself after the group's timeout."""
        limit = None if method == "finish_weight_update" else self._group.timeout_s + ANSWER_S
        try:
            answers: list[Any] = self.engine.collective_rpc(method, limit, kwargs=kwargs)
        except (RuntimeError, TimeoutError) as e:  # what a worker in another process raises arrives as a RuntimeError
            raise WeightSyncError(f"vLLM's workers failed in {method}: {first_line(e)}") from e
        return answers


def _update_info(sent: Sequence[TensorSpec], bucket_bytes: int) -> dict[str, Any]:
    """What vLLM calls the update info, with our size of buckets."""
    return {
        "names": [s.name for s in sent],
        "dtype_names": [str(s.dtype).removeprefix("torch.") for s in sent],
        "shapes": [list(s.shape) for s in sent],
        "bucket_bytes": bucket_bytes,
    }
