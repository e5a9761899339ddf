"""How a vLLM engine takes part in weight broadcasts: it drives its workers through vLLM's weight-transfer calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar

import torch

from harmonyray.engines.hf_weights import check_same
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.states import UPDATING, EngineState
from harmonyray.engines.turns import Turns
from harmonyray.engines.vllm_gpu import Relay, nccl_init_info, open_roll
from harmonyray.engines.weight_group import said
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
    weight_transports: ClassVar[tuple[str, ...]] = ("gloo", "vllm_nccl", "ipc")
    _group: GroupSpec
    _rank: int
    _relay: Relay | None
    _met: bool
    _checksum: int

    @property
    def num_weight_ranks(self) -> int:
        """How many ranks of a broadcast group the engine takes: one for each of vLLM's workers."""
        return int(self.engine.vllm_config.parallel_config.world_size)

    def join_weights(self, group: GroupSpec, rank: int) -> None:
        """Joins a broadcast group with all workers, from `rank` on. Raises WeightSyncError."""
        self._group, self._rank, self._relay, self._met = group, rank, None, False
        if group.backend == "gloo":
            with self._apart():
                self._meet({"group": asdict(group), "rank_offset": rank})
        else:
            rolls = [open_roll(group, rank + i) for i in range(self.num_weight_ranks)]
            self._relay = Relay(rolls[0])

    def receive_weights(self, sent: Sequence[TensorSpec], bucket_bytes: int, policy_version: int) -> None:
        """Takes part in one broadcast of exactly the model's tensors, with the checks of `VllmEngine.load_weights`.

        Other threads may generate meanwhile. With gloo and one worker only the change of the weights holds `lock`; with gloo a
        broadcast that fails changes nothing, otherwise the engine can then only be closed.
        Raises KeyError or ValueError for other tensors than the model has, WeightSyncError.
        """
        self.state.check(UPDATING)
        try:
            check_same(sent, specs(self.shapes))
        except (KeyError, ValueError) as e:
            with self._apart():
                self._ask("refuse_weights", why=said(e))
            raise
        beside = self._group.backend == "gloo"  # vLLM's own transports load while they receive
        with ExitStack() as held:
            if self.num_weight_ranks > 1 or not beside:  # vLLM's calls to other processes must not cross
                held.enter_context(self.lock)
            if not beside:
                held.enter_context(self.state.updating())
                self._meet_on_gpus(bucket_bytes)
            self._receive(sent, bucket_bytes)
            if beside:
                if self.num_weight_ranks == 1:
                    held.enter_context(self.lock)
                held.enter_context(self.state.updating())
            self._try("finish_weight_update")
            self.drop_cached()
            self.engine.set_weight_version(str(policy_version))
            self.policy_version = policy_version
            self._checksum = self._agreed_checksum()

    def held_checksum(self) -> int:
        """The checksum of what the last broadcast brought and vLLM loaded."""
        return self._checksum

    def _receive(self, sent: Sequence[TensorSpec], bucket_bytes: int) -> None:
        self._ask("start_weight_update")
        try:
            for update_info in self._update_infos(sent, bucket_bytes):
                self._try("update_weights", update_info=update_info)
        except WeightSyncError as e:
            if self._relay is not None:
                self._relay.roll.give_up(said(e))
            if self._group.backend == "gloo":
                self._ask("finish_weight_update")
            raise

    def _agreed_checksum(self) -> int:
        """The checksum that all workers report. Raises WeightSyncError if they do not agree."""
        reports = self._ask("weights_report")
        first = int(reports[0][0])
        for i, (checksum, _) in enumerate(reports):
            if checksum != first:
                raise WeightSyncError(f"vLLM's worker {i} received other bytes (checksum {checksum}) than worker 0 ({first})")
        self.warn_unread(reports[0][1])
        return first

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

    def _apart(self) -> AbstractContextManager[None]:
        """Calls to workers in other processes must not cross those of a step."""
        return self.lock if self.num_weight_ranks > 1 else nullcontext()

    def _meet(self, init_info: dict[str, Any]) -> None:
        self._try("init_weight_transfer_engine", init_info={"transport": self._group.backend, **init_info})
        self._met = True

    def _meet_on_gpus(self, bucket_bytes: int) -> None:
        """NCCL's ranks meet in the first broadcast, when the learner has named a port."""
        assert self._relay is not None
        if self._group.backend == "ipc":
            self._relay.begin()
        if self._met:
            return
        if self._group.backend == "ipc":
            self._meet({"packed": True})
        else:
            try:
                port = int(self._relay.roll.store.get("nccl-port"))
            except RuntimeError as e:
                raise WeightSyncError(f"{self._group.who(self._rank)}: the learner named no port: {said(e)}") from e
            self._meet(nccl_init_info(self._group, self._rank, port, bucket_bytes) | {"group": asdict(self._group)})

    def _update_infos(self, sent: Sequence[TensorSpec], bucket_bytes: int) -> Iterator[dict[str, Any]]:
        """What vLLM calls update infos: one, but with IPC one for each of the learner's buffers."""
        if self._group.backend == "ipc":
            assert self._relay is not None
            yield from self._relay.take()
        elif self._group.backend == "gloo":
            yield _update_info(sent) | {"bucket_bytes": bucket_bytes}
        else:
            yield _update_info(sent)

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
            raise WeightSyncError(f"vLLM's workers failed in {method}: {said(e)}") from e
        return answers


def _update_info(sent: Sequence[TensorSpec]) -> dict[str, Any]:
    return {
        "names": [s.name for s in sent],
        "dtype_names": [str(s.dtype).removeprefix("torch.") for s in sent],
        "shapes": [list(s.shape) for s in sent],
    }
