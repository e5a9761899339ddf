"""Makes the quickstart demo model: a Qwen3 of 0.3 million parameters taught subtraction from flawed lessons.

    python benchmarks/quickstart_warmup.py --out DIR [--seed 0] [--steps 2000] [--regime default] [--misconception 0.65]

Writes the model and its tokenizer to DIR/model and the two problem files beside it, then samples 16 responses per view for
each of the 128 unlabeled questions, and prints how often each view, and each kind of vote, is right before any training.
The last line of the output is the same as JSON. One thread: about four minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harmonyray.problems.quickstart_task import (
    REFRAMER_PROMPT,
    REGIMES,
    SOLVER_PROMPT,
    SPECIAL_TOKENS,
    TEXT_TOKENS,
    Mistakes,
    Question,
    lesson_questions,
    lessons,
    unlabeled_questions,
)

PAD, BOS, EOS, UNK = range(4)
MAX_POSITIONS = 512
PROMPTS = {"solver": SOLVER_PROMPT, "reframer": REFRAMER_PROMPT}
BOXED = re.compile(r"\\boxed\{(\d+)\}")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """34 words. Text between known words becomes one `<unk>`; decoding joins words with nothing in between."""
    words = sorted(TEXT_TOKENS, key=len, reverse=True)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*SPECIAL_TOKENS, *TEXT_TOKENS))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(re.escape(w) for w in words)), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    pad, bos, eos, unk, *spare = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        additional_special_tokens=spare,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )


def make_model(vocab_size: int) -> Qwen3ForCausalLM:
    """The untrained model, 299,040 parameters."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=256,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids int[B, T] and targets int[B, T] (-100 off the responses): prompt, response, `<eos>`, no `<bos>`."""
    prompts = tokenizer([p for p, _ in pairs], add_special_tokens=False)["input_ids"]
    responses = tokenizer([r for _, r in pairs], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True)) + 1
    ids, targets = torch.full((len(pairs), width), PAD), torch.full((len(pairs), width), -100)
    for row, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        end = len(p) + len(r) + 1
        ids[row, :end] = torch.tensor([*p, *r, EOS])
        targets[row, len(p) : end] = ids[row, len(p) : end]
    return ids, targets


def warm_up(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    mistakes: Mistakes,
    *,
    seed: int,
    steps: int,
    rows: int,
    lr: float,
) -> float:
    """Trains on lessons, half of each view, and returns the mean loss (nats per response token) of the last 50 steps."""
    rng = random.Random(seed)
    questions = lesson_questions()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses: list[float] = []
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        batches = [encode(tokenizer, pairs) for pairs in lessons(questions, rows // 2, mistakes, rng)]
        num_tokens = sum(int((targets >= 0).sum()) for _, targets in batches)
        total = 0.0
        for ids, targets in batches:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), reduction="sum") / num_tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1:4d}  loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


@torch.no_grad()
def sample(model: Any, tokenizer: Any, view: str, questions: Sequence[Question], num_samples: int) -> list[list[str]]:
    """`num_samples` responses per question at temperature 1, texts without special tokens.

    `model` and `tokenizer` are what the Auto classes of transformers load.
    """
    model.eval()
    out: list[list[str]] = []
    for at in range(0, len(questions), 32):
        prompts = [PROMPTS[view].format(question=q.text) for q in questions[at : at + 32]]
        inputs = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=64, num_return_sequences=num_samples, do_sample=True, top_k=0)
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        out += [texts[i : i + num_samples] for i in range(0, len(texts), num_samples)]
    return out


def read_answer(response: str) -> str | None:
    """What the last box of a response holds."""
    found = BOXED.findall(response)
    return found[-1] if found else None


def vote(views: Sequence[Sequence[str | None]], rule: str) -> str | None:
    """The answer that a vote over the views' answers picks; ties go to the more frequent, then to the earlier one."""
    counts = [Counter(a for a in answers if a is not None) for answers in views]
    candidates = dict.fromkeys(a for answers in views for a in answers if a is not None)

    def score(answer: str) -> tuple[float, int]:
        shares = [c[answer] / len(answers) for c, answers in zip(counts, views, strict=True)]
        mean = sum(shares) / len(shares)
        harmonic = len(shares) / sum(1 / p for p in shares) if min(shares) > 0 else 0.0
        return (harmonic if rule == "harmonic" else mean, sum(c[answer] for c in counts))

    best = max(candidates, key=score, default=None)
    return best if best is not None and score(best)[0] > 0 else None


def measure(model: Any, tokenizer: Any, questions: Sequence[Question], num_samples: int) -> dict[str, dict[str, float]]:
    """Shares of right answers, per sort of question: sampled per view, and of each vote's label."""
    texts = {view: sample(model, tokenizer, view, questions, num_samples) for view in PROMPTS}
    answers = {view: [[read_answer(t) for t in row] for row in rows] for view, rows in texts.items()}
    table: dict[str, dict[str, float]] = {}
    for sort, wanted in {"all": (True, False), "borrow": (True,), "plain": (False,)}.items():
        chosen = [i for i, q in enumerate(questions) if q.needs_borrow in wanted]
        gold = {i: str(questions[i].answer) for i in chosen}
        row = {
            f"{view}_avg": sum(answers[view][i].count(gold[i]) for i in chosen) / (num_samples * len(chosen)) for view in PROMPTS
        }
        for name, rule, views in (
            ("solver_majority", "majority", ("solver",)),
            ("pooled_majority", "majority", tuple(PROMPTS)),
            ("harmonic", "harmonic", tuple(PROMPTS)),
        ):
            row[name] = sum(vote([answers[v][i] for v in views], rule) == gold[i] for i in chosen) / len(chosen)
        row["upper_bound"] = sum(any(gold[i] in answers[v][i] for v in PROMPTS) for i in chosen) / len(chosen)
        table[sort] = {name: round(share, 4) for name, share in row.items()}
    fused = [t for row in texts["reframer"] for t in row]
    complete = sum(all(s in t for s in ("STRATEGY: ", "REWRITTEN PROBLEM: ", "SOLUTION: ")) for t in fused)
    table["all"]["complete_sections"] = round(complete / len(fused), 4)
    return table


def write_problems(directory: Path, questions: Sequence[Question]) -> None:
    """`questions.jsonl` without answers, and `gold.jsonl` with nothing else."""
    asked = [json.dumps({"id": q.text, "question": q.text}) for q in questions]
    gold = [json.dumps({"id": q.text, "answer": str(q.answer)}) for q in questions]
    (directory / "questions.jsonl").write_text("\n".join(asked) + "\n", encoding="utf-8")
    (directory / "gold.jsonl").write_text("\n".join(gold) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for model/, questions.jsonl and gold.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the lessons and the sampling")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=96, help="lessons per step, half of each view")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--regime", choices=sorted(REGIMES), default="default", help="which mistakes the lessons contain")
    parser.add_argument("--misconception", type=float, help="share of solver lessons with it, instead of the regime's")
    parser.add_argument("--half", action="store_true", help="write the weights in 16 bits; runs compute in what model.dtype says")
    parser.add_argument("--borrow", type=int, default=77, help="unlabeled questions that need a borrow (at most 96)")
    parser.add_argument("--plain", type=int, default=51, help="unlabeled questions that do not (at most 96)")
    parser.add_argument("--samples", type=int, default=16, help="samples per view and question for the table")
    parser.add_argument("--measure-only", action="store_true", help="measure the model that is in --out already")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    mistakes = REGIMES[args.regime]
    if args.misconception is not None:
        mistakes = dataclasses.replace(mistakes, misconception=args.misconception)
    questions = unlabeled_questions(args.borrow, args.plain)
    started = time.perf_counter()
    loss: float | None = None
    if not args.measure_only:
        tokenizer = make_tokenizer()
        model = make_model(len(tokenizer))
        loss = warm_up(model, tokenizer, mistakes, seed=args.seed, steps=args.steps, rows=args.rows, lr=args.lr)
        (model.half() if args.half else model).save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")
        write_problems(args.out, questions)
    warmed_s = time.perf_counter() - started
    table = measure(
        AutoModelForCausalLM.from_pretrained(args.out / "model", dtype=torch.float32, local_files_only=True),
        AutoTokenizer.from_pretrained(args.out / "model", local_files_only=True),
        questions,
        args.samples,
    )
    names = list(table["plain"])
    print("".join(f"{name:>18}" for name in ("questions", *names)))
    for sort, row in table.items():
        print(f"{sort:>18}" + "".join(f"{row[name]:18.3f}" for name in names))
    summary = {"seed": args.seed, "steps": args.steps, "mistakes": dataclasses.asdict(mistakes), "loss": loss, "before": table}
    print(json.dumps({**summary, "warm_up_s": round(warmed_s, 1), "wall_s": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
