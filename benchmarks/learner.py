"""Tokens a second of the learner's update against a bare PyTorch loop: the same model, the same batches, in one process.

    OMP_NUM_THREADS=1 python benchmarks/learner.py --out benchmarks/results

The bare loop is what one would write: logits from the model, `cross_entropy` for the log-probs, the clipped loss (and k3 to a
copy of the model where there is a KL), AdamW; on the micro-batches that the learner makes, and without its metrics. Both begin
with the same weights, take turns, an update each on a new batch after one that is not counted, and must see the same gradients.
Tokens are prompts and responses; ratios are medians over the updates, of CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reporting import give_out
from rollout import make_model

from harmonyray.engines.paths import model_path
from harmonyray.types import Batch

PROMPT, LONGEST = 32, 512  # tokens of a prompt, and of a response at most
LR, CLIP, KL, MAX_NORM, STEPS = 1e-5, 0.2, 0.005, 1.0, 1000
BUDGET = 4096  # tokens in a micro-batch
ROWS = {"quickstart": 128, "10m": 24}


def batch_of(number: int, num_rows: int, vocabulary: int) -> Batch:
    """Two views' rows: prompts of 32, responses of 16 to 512 tokens, in the median about 128; the rest of them is made up."""
    rng = np.random.default_rng(number)
    lengths = PROMPT + np.clip(np.exp(rng.normal(np.log(128), 0.7, num_rows)), 16, LONGEST).astype(np.int64)
    shape = (num_rows, int(lengths.max()))
    place = np.arange(shape[1])
    mask = (place >= PROMPT) & (place < lengths[:, None])
    ids = np.where(place < lengths[:, None], rng.integers(0, vocabulary, shape), 0)
    old = np.where(mask, rng.normal(-np.log(vocabulary), 0.1, shape), 0).astype(np.float32)
    advantages = np.where(mask, rng.normal(0, 1, (num_rows, 1)), 0).astype(np.float32)
    part, ones = np.arange(num_rows) % 2, np.ones(num_rows, dtype=np.float32)
    return Batch(ids, lengths, mask, old, advantages, part, ones, np.arange(num_rows) // 2)


def learner_of(directory: str, kl_coef: float) -> Any:
    from harmonyray.algos.losses.ppo_clip import PpoClip
    from harmonyray.config_objective import ObjectiveOptions, ObjectiveSettings
    from harmonyray.learners.torch import TorchLearner

    objective = ObjectiveOptions.model_validate({"kl_coef": kl_coef, "importance": {"type": "none"}})
    options = {
        "lr": LR,
        "schedule": "constant",
        "warmup_share": 0,
        "max_grad_norm": MAX_NORM,
        "max_tokens_per_micro_batch": BUDGET,
    }
    return TorchLearner(
        TorchLearner.Options.model_validate(options),
        PpoClip(PpoClip.Options()),
        ObjectiveSettings(objective, (1.0, 1.0), LONGEST),
        directory,
        "float32",
        STEPS,
    )


class Bare:
    """The loop. A token counts 1 / (the response tokens of its view in the batch)."""

    def __init__(self, directory: str, kl_coef: float) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.reference = copy.deepcopy(self.model).requires_grad_(False) if kl_coef else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0)
        self.kl_coef = kl_coef

    def update(self, batch: Batch) -> float:
        """The gradients' norm."""
        import torch

        from harmonyray.learners.micro_batches import micro_batches

        tokens_of_view = np.array([batch.response_mask[batch.part == view].sum() for view in (0, 1)])
        self.optimizer.zero_grad(set_to_none=True)
        for rows in micro_batches(batch.lengths, BUDGET):
            width = int(batch.lengths[rows].max())
            ids, mask, old, advantages = (
                torch.from_numpy(array[rows, :width])
                for array in (batch.token_ids, batch.response_mask, batch.old_logprobs, batch.advantages)
            )
            counts = torch.from_numpy(1 / tokens_of_view[batch.part[rows]]).float()[:, None].expand(mask.shape)[mask]
            logps = self._logprobs(self.model, ids, mask)
            ratio = (logps - old[mask]).exp()
            loss = torch.maximum(-ratio * advantages[mask], -ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[mask])
            if self.reference is not None:
                with torch.no_grad():
                    reference = self._logprobs(self.reference, ids, mask)
                loss = loss + self.kl_coef * ((reference - logps).exp() - (reference - logps) - 1)
            (loss * counts).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        return float(norm)

    @staticmethod
    def _logprobs(model: Any, ids: Any, mask: Any) -> Any:
        from torch.nn.functional import cross_entropy

        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return -cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]], reduction="none")


def timed(update: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds, and the gradients' norm."""
    begun = time.process_time()
    norm = update()
    return time.process_time() - begun, norm


def compare(name: str, kl_coef: float, rounds: int, folder: Path) -> dict[str, Any]:
    """One line of the table."""
    directory = model_path("quickstart") if name == "quickstart" else make_model(name, folder)
    learner, bare = learner_of(directory, kl_coef), Bare(directory, kl_coef)
    vocabulary = learner.model.config.vocab_size
    of_learner, of_bare = [], []
    for i in range(rounds + 1):
        batch = batch_of(i, ROWS[name], vocabulary)
        num_tokens = int(batch.lengths.sum())
        turns = [lambda b=batch: learner.update(b, 1).metrics["grad_norm"], lambda b=batch: bare.update(b)]
        order = (0, 1) if i % 2 else (1, 0)
        done = {turn: timed(turns[turn]) for turn in order}
        (seconds, norm), (bare_seconds, bare_norm) = done[0], done[1]
        if abs(norm - bare_norm) > 1e-3 * bare_norm:
            raise SystemExit(f"{name}: the gradients' norms are {norm} and {bare_norm}, so the two do not compute the same")
        if i:
            of_learner.append(num_tokens / seconds)
            of_bare.append(num_tokens / bare_seconds)
    ratios = [a / b for a, b in zip(of_learner, of_bare, strict=True)]
    return {
        "model": name,
        "vocabulary": vocabulary,
        "kl": bool(kl_coef),
        "learner_tokens_per_s": statistics.median(of_learner),
        "bare_tokens_per_s": statistics.median(of_bare),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| model | vocabulary | KL | learner, tokens/s | bare loop, tokens/s | ratio (lowest, highest) |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['model']} | {r['vocabulary']:,} | {'k3' if r['kl'] else 'none'} | {r['learner_tokens_per_s']:,.0f} | "
            f"{r['bare_tokens_per_s']:,.0f} | {r['ratio']:.2f} ({r['lowest']:.2f}, {r['highest']:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for learner.{json,md}")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = [compare(name, kl, args.rounds, Path(folder)) for name in args.models for kl in (0.0, KL)]
    brief = {f"{r['model']}{' kl' if r['kl'] else ''}": round(r["ratio"], 3) for r in results}
    give_out(args.out, "learner", table(results), brief, results=results)


if __name__ == "__main__":
    main()
