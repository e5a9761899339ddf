"""What the learner's log-probs take in memory and time: a large vocabulary in chunks, and rows end to end instead of padded.

    python benchmarks/learner_memory.py --out benchmarks/results

Every line is a process of its own that runs a random Qwen3 in float32 forward and back `--repeats` times: the peak is of the
first pass, above what was there before it (from Linux' /proc), the CPU-seconds (of one thread) are those of the fastest pass.
The first lines are one pass over `--tokens` response tokens with a vocabulary of `--vocabulary`: `naive` makes all logits,
`chunks` is what the learner does. The others are `--rows` rows, most of them short, cut as the learner does it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import from_child, give_out

PROC = Path("/proc/self")
BUDGETS = (1024, 4096, 16384)  # tokens in a micro-batch
SMALL_VOCABULARY = 4096


@dataclass(frozen=True)
class Case:
    """One line. `budget` 0: rows of one length, all at once."""

    way: str
    tokens: int
    vocabulary: int
    budget: int
    repeats: int

    @property
    def name(self) -> str:
        return f"{self.tokens} x {self.vocabulary} {self.way}" if not self.budget else f"{self.budget} {self.way}"


def model_of(vocabulary: int, hidden: int, layers: int) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "head_dim": 32}
    heads = {"num_attention_heads": hidden // 32, "num_key_value_heads": max(1, hidden // 64)}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, tie_word_embeddings=True, **sizes, **heads)).eval()


def naive(model: Any, ids: Any, mask: Any, temperatures: Any) -> tuple[Any, Any]:
    """Log-probs and entropies from all logits."""
    import torch

    wanted = mask[:, 1:]
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[wanted]
    logps = torch.log_softmax(logits.float() / temperatures[:, None].expand(wanted.shape)[wanted][:, None], dim=-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)
    return logps.gather(-1, ids[:, 1:][wanted][:, None]).squeeze(-1), entropy


def rows_of(case: Case) -> tuple[Any, Any, Any]:
    """Ids, response mask and lengths. With a budget: prompts of 16, responses of 16 to 1,008 tokens, in the median about 130."""
    rng = np.random.default_rng(0)
    if case.budget:
        lengths = 16 + np.clip(np.exp(rng.normal(np.log(128), 0.9, case.tokens)), 16, 1008).astype(np.int64)
        prompt = 16
    else:
        lengths, prompt = np.full(8, case.tokens // 8 + 1), 1
    ids = rng.integers(0, case.vocabulary, (len(lengths), lengths.max()))
    place = np.arange(lengths.max())
    return ids, (place >= prompt) & (place < lengths[:, None]), lengths


def one_pass(case: Case) -> Callable[[], None]:
    """What is measured, with everything made that it needs."""
    import torch

    from harmonyray.learners.micro_batches import micro_batches
    from harmonyray.learners.packing import packed_token_logprobs
    from harmonyray.learners.token_logprobs import token_logprobs

    model = model_of(case.vocabulary, *((128, 4) if case.budget else (64, 1)))
    ids, mask, lengths = rows_of(case)
    parts = list(micro_batches(lengths, case.budget)) if case.budget else [np.arange(len(lengths))]

    def run() -> None:
        model.zero_grad()
        for rows in parts:
            width, ones = int(lengths[rows].max()), torch.ones(len(rows))
            row_ids, row_mask = torch.from_numpy(ids[rows, :width]), torch.from_numpy(mask[rows, :width])
            if case.way == "packed":
                long = torch.from_numpy(lengths[rows])
                inside = torch.arange(width) < long[:, None]
                logps, _ = packed_token_logprobs(model, row_ids[inside], row_mask[inside], long, ones)
            else:
                logps, _ = (naive if case.way == "naive" else token_logprobs)(model, row_ids, row_mask, ones)
            logps.sum().backward()

    with torch.no_grad():  # what is loaded, compiled or checked at the first call
        first = torch.zeros(1, 2, dtype=torch.int64)
        flat, where = first[0], torch.tensor([False, True])
        token_logprobs(model, first, where[None], torch.ones(1))
        packed_token_logprobs(model, flat, where, torch.tensor([2]), torch.ones(1))
    return run


def resident_mb(peak: bool) -> float:
    key = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in (PROC / "status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def child(case: Case) -> dict[str, Any]:
    """One line, in this process."""
    import torch

    torch.set_num_threads(1)
    run = one_pass(case)
    (PROC / "clear_refs").write_text("5")  # the peak starts again from what there is
    before, seconds = resident_mb(peak=False), []
    for i in range(case.repeats):
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
        if i == 0:
            taken = resident_mb(peak=True) - before
    return {"name": case.name, **asdict(case), "peak_mb": taken, "seconds": min(seconds)}


def measure(case: Case) -> dict[str, Any]:
    """One line, in a process of its own."""
    return from_child([sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(asdict(case))])


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| response tokens | vocabulary | way | peak, MB | CPU-s |", "|---|---|---|---|---|"]
    for r in results:
        if not r["budget"]:
            lines.append(f"| {r['tokens']:,} | {r['vocabulary']:,} | {r['way']} | {r['peak_mb']:,.0f} | {r['seconds']:.2f} |")
    if results[-1]["budget"]:
        lines += ["", "| tokens in a micro-batch | rows | way | peak, MB | CPU-s |", "|---|---|---|---|---|"]
    for r in results:
        if r["budget"]:
            lines.append(f"| {r['budget']:,} | {r['tokens']:,} | {r['way']} | {r['peak_mb']:,.0f} | {r['seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[152_000])
    parser.add_argument("--ways", nargs="+", default=["naive", "chunks"], choices=["naive", "chunks"])
    parser.add_argument("--rows", type=int, default=64, help="0 leaves padded and packed rows out")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for learner_memory.{json,md}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(Case(**json.loads(args.child)))))
        return
    cases = [Case(way, t, v, 0, args.repeats) for v in args.vocabulary for t in args.tokens for way in args.ways]
    if args.rows:
        ways = ("padded", "packed")
        cases += [Case(way, args.rows, SMALL_VOCABULARY, budget, args.repeats) for budget in BUDGETS for way in ways]
    results = [measure(case) for case in cases]
    give_out(args.out, "learner_memory", table(results), {r["name"]: round(r["peak_mb"], 1) for r in results}, results=results)


if __name__ == "__main__":
    main()
