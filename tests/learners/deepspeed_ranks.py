"""Learners in processes of their own, one a rank, that meet over gloo and do as they are told over pipes."""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from harmonyray.actors.broadcast import WeightStore
from harmonyray.learners.token_logprobs import plain_head
from harmonyray.types import Batch

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (`make test` installs it)"
)
PATIENCE_S = 240.0  # for a rank that starts on a busy machine

# Gradients are clipped in some of the updates, and micro-batches are small.
OPTIONS = {
    "lr": 0.003,
    "schedule": "constant",
    "warmup_share": 0.0,
    "max_grad_norm": 3.0,
    "weight_decay": 0.1,
    "max_tokens_per_micro_batch": 40,
}
OBJECTIVE = {"kl_coef": 0.05, "importance": {"type": "none"}}


@dataclass(frozen=True)
class Job:
    """A new learner's life: it learns `before`, loads `load`, learns `batches` (steps count from `first`), saves in `save`, and
    learns `after`. Of `before` nothing is told. `scored`: what it gives for a batch before it learns it."""

    options: dict[str, Any]
    batches: Sequence[Batch]
    model: str
    dtype: str = "float32"
    load: Path | None = None
    save: Path | None = None
    after: Sequence[Batch] = field(default_factory=tuple)
    first: int = 1
    before: Sequence[Batch] = field(default_factory=tuple)
    objective: dict[str, Any] = field(default_factory=lambda: OBJECTIVE)
    scored: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """`metrics` and `versions` of the updates; `loaded` the version after `load`; `weights` at the end; `layer_passes`: how often
    the first layer's MLP ran in the last update, the reference's apart; `held`: elements of weights, and of first moments, at
    the end, in this process; `head_width`: the most numbers that the output head gave for one token in the
    last update."""

    metrics: list[dict[str, float]]
    versions: list[int]
    loaded: int
    weights: dict[str, torch.Tensor]
    layer_passes: int
    held: tuple[int, int]
    scores: list[dict[str, Any]]
    head_width: int


def live(learner: Any, job: Job) -> Outcome:
    """The job, done by a learner (of any kind)."""
    for batch in job.before:
        learner.update(batch, 1)
    if job.load is not None:
        learner.load(job.load)
    loaded, passes, widths, reports, scores = learner.policy_version, [], [], [], []

    def measure(_: torch.nn.Module, args: tuple[torch.Tensor], out: Any) -> None:
        given = out.values() if isinstance(out, dict) else out if isinstance(out, tuple) else [out]
        widths.extend(t.numel() // args[0].shape[0] for t in given)

    plain_head(learner.model)  # which takes offence at hooks
    learner.model.get_output_embeddings().register_forward_hook(measure)
    learner.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    for step, batch in enumerate([*job.batches, *job.after], job.first):
        if step == job.first + len(job.batches) and job.save is not None:
            learner.save(job.save)
        if job.scored:
            scores.append(learner.score(batch, job.scored))
        passes.clear()
        widths.clear()
        reports.append(learner.update(batch, step))
    if job.save is not None and not job.after:
        learner.save(job.save)
    return Outcome(
        [dict(report.metrics) for report in reports],
        [report.policy_version for report in reports],
        loaded,
        {name: t.detach().clone() for name, t in learner.weights().items()},
        len(passes),
        held(learner),
        scores,
        max(widths, default=0),
    )


def held(learner: Any) -> tuple[int, int]:
    optimizer = learner.optimizer if hasattr(learner, "optimizer") else learner.engine.basic_optimizer
    moments = [own["exp_avg"].numel() for own in optimizer.state.values()]
    return sum(p.numel() for p in learner.model.parameters()), sum(moments)


def _serve(pipe: Any, rank: int, num_ranks: int, port: int) -> None:
    """A rank's process: jobs come in, outcomes go out, None ends it."""
    from datetime import timedelta

    import torch.distributed as dist

    from harmonyray.algos.losses.ppo_clip import PpoClip
    from harmonyray.config_objective import ObjectiveOptions, ObjectiveSettings
    from harmonyray.learners import token_logprobs, zero
    from harmonyray.learners.deepspeed import DeepSpeedLearner
    from harmonyray.learners.ranks import Rank

    torch.set_num_threads(1)
    token_logprobs.CHUNK_ELEMENTS, token_logprobs.MIN_CHUNK_WIDTH = 1, 10  # several parts of the tiny vocabulary
    zero.PERSISTENT_ELEMENTS = 0  # every parameter of the tiny model is shared out in stage 3
    patience, store = timedelta(seconds=PATIENCE_S), None
    if num_ranks > 1:
        store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=patience)
    seat = Rank(rank, store)
    while (job := pipe.recv()) is not None:
        try:
            options = {"num_ranks": num_ranks, "collective_timeout_s": PATIENCE_S} | job.options
            objective = ObjectiveSettings(ObjectiveOptions.model_validate(job.objective), (1.0, 1.0), 8)
            about = (PpoClip(PpoClip.Options()), objective, job.model, job.dtype, 20)
            learner = DeepSpeedLearner(DeepSpeedLearner.Options.model_validate(options), *about, seat, job.seed)
            pipe.send(live(learner, job))
        except Exception:  # noqa: BLE001 - whatever it is, the test is told
            pipe.send(traceback.format_exc())
    if dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # an interpreter full of libraries takes seconds to take itself apart


class Ranks:
    """That many processes, each with one rank."""

    def __init__(self, num_ranks: int) -> None:
        context = get_context("spawn")
        self.store = WeightStore("127.0.0.1", PATIENCE_S)
        pairs = [context.Pipe() for _ in range(num_ranks)]
        self.pipes = [here for here, _ in pairs]
        self.processes = [
            context.Process(target=_serve, args=(there, rank, num_ranks, self.store.port), daemon=True)
            for rank, (_, there) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def ask(self, job: Job) -> list[Outcome | str]:
        """What each rank answers: an outcome, or its traceback."""
        for pipe in self.pipes:
            pipe.send(job)
        return [pipe.recv() if pipe.poll(PATIENCE_S) else "no answer" for pipe in self.pipes]

    def run(self, job: Job) -> list[Outcome]:
        """Each rank's outcome."""
        answers = self.ask(job)
        for rank, answer in enumerate(answers):
            assert isinstance(answer, Outcome), f"rank {rank}: {answer}"
        return [answer for answer in answers if isinstance(answer, Outcome)]

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            if process.is_alive():
                pipe.send(None)
        for process in self.processes:
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()


def some_batches(workshop: Any, number: int) -> list[Batch]:
    """Of five problems, of one (a rank of two has nothing to do then), and of four, in turn."""
    return [workshop.batch(num_rows=(9, 2, 7)[i % 3], seed=i) for i in range(number)]


def torch_outcome(workshop: Any, job: Job) -> Outcome:
    """What the torch learner makes of the job, all rows in one micro-batch."""
    known = {key: value for key, value in job.options.items() if key in type(workshop.learner()).Options.model_fields}
    known["max_tokens_per_micro_batch"] = 4096
    return live(workshop.learner(objective=job.objective, seed=job.seed, **known), job)


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert list(a) == list(b)
    return max((float((a[name].float() - b[name].float()).abs().max()) for name in a), default=0.0)
