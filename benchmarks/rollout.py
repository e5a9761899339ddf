"""Tokens a second of the engines against the library calls they stand on, on the same prompts in one process.

    OMP_NUM_THREADS=1 python benchmarks/rollout.py --engines hf vllm --out benchmarks/results

`HfEngine.stream` against a loop over `model.generate` of transformers, `VllmEngine.stream` against `vllm.LLM.generate` with n
samples a prompt; beside it the latter with a seed for every prompt, which the engine needs and the bare call can do without.
transformers' call gives no log-probs (the engine does), vLLM's gives those of the sampled tokens. The contenders take turns, a
round each, after one round that is not counted; ratios are medians over the rounds. CPU seconds are the process's.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reporting import give_out

from harmonyray.engines.paths import model_path
from harmonyray.types import Failure, Prompt, SampleRequest, Sampling

KV_CACHE_GIB = 1.0
WIDTHS = {  # layers, width, width of the MLP, vocabulary
    "10m": (8, 256, 1024, 8192),
    "100m": (12, 640, 2560, 32000),
}
PROMPTS = {"quickstart": 64, "10m": 8, "100m": 2}  # fewer where a token costs more
KEPT: list[Any] = []  # vLLM's engines share global state in a process: one that is collected would end all
Contender = Callable[[int], int]
"""One round, given its number: the tokens it generated."""


def make_model(name: str, folder: Path) -> str:
    """The directory of a Qwen3 with random weights and the quickstart's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    layers, width, inner, vocabulary = WIDTHS[name]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_path("quickstart"))
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return str(folder / name)


def prompts(number: int) -> list[str]:
    """Different sums, in the quickstart's words; a few lengths."""
    return [f"{('SOLVE', 'REFRAME')[i % 2]}: {10 + 7 * i % 89}-{(3 * i) % 10 if i % 4 else 10 + i % 40}\n" for i in range(number)]


def streaming(engine: Any, texts: list[str], num_samples: int, max_tokens: int) -> Contender:
    def run(number: int) -> int:
        requests = [
            SampleRequest(
                Prompt(str(i), "v", text=text), tuple(range(base := 10**6 * number + 1000 * i, base + num_samples)), how
            )
            for how in [Sampling(max_tokens)]
            for i, text in enumerate(texts)
        ]
        tokens = 0
        for _, group in engine.stream(requests, 0):
            if isinstance(group, Failure):
                raise SystemExit(group.reason)
            tokens += sum(len(rollout.token_ids) for rollout in group)
        return tokens

    return run


def bare_transformers(path: str, texts: list[str], num_samples: int, max_tokens: int, max_rows: int) -> Contender:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    each = max(1, max_rows // num_samples)

    def run(number: int) -> int:
        torch.manual_seed(number)
        tokens = 0
        for start in range(0, len(texts), each):
            asked = tokenizer(texts[start : start + each], return_tensors="pt", padding=True)
            out = model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_tokens,
                num_return_sequences=num_samples,
                pad_token_id=tokenizer.pad_token_id,
            )[:, asked["input_ids"].shape[1] :]
            ended = (out == tokenizer.eos_token_id).int()
            tokens += int(torch.where(ended.any(1), ended.argmax(1) + 1, out.shape[1]).sum())
        return tokens

    return run


def bare_vllm(llm: Any, texts: list[str], num_samples: int, max_tokens: int, seeded: bool) -> Contender:
    from vllm import SamplingParams

    asked = [{"prompt_token_ids": ids} for ids in llm.get_tokenizer()(texts)["input_ids"]]

    def run(number: int) -> int:
        params = [
            SamplingParams(
                n=num_samples,
                temperature=1.0,
                max_tokens=max_tokens,
                logprobs=0,
                seed=10**6 * number + 1000 * i if seeded else None,
            )
            for i in range(len(texts))
        ]
        out = llm.generate(asked, params, use_tqdm=False)
        return sum(len(completion.token_ids) for request in out for completion in request.outputs)

    return run


@contextmanager
def hf_contenders(path: str, texts: list[str], args: argparse.Namespace) -> Iterator[dict[str, Contender]]:
    from harmonyray.engines.hf import HfEngine

    options = HfEngine.Options()
    yield {
        "HfEngine.stream": streaming(HfEngine(options, path), texts, args.samples, args.max_tokens),
        "model.generate": bare_transformers(path, texts, args.samples, args.max_tokens, options.max_batch_rows),
    }


@contextmanager
def vllm_contenders(path: str, texts: list[str], args: argparse.Namespace) -> Iterator[dict[str, Contender]]:
    from harmonyray.engines.vllm import VllmEngine

    options = VllmEngine.Options(kv_cache_gib=KV_CACHE_GIB)
    engine = VllmEngine(options, path, max_tokens=64 + args.max_tokens)
    from vllm import LLM

    llm = LLM(
        model=path,
        dtype="float32",
        enforce_eager=engine.engine.model_config.enforce_eager,
        max_num_seqs=options.max_num_seqs,
        max_model_len=engine.engine.model_config.max_model_len,
        kv_cache_memory_bytes=int(KV_CACHE_GIB * 2**30),
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
    )
    KEPT.append((engine, llm))
    yield {
        "VllmEngine.stream": streaming(engine, texts, args.samples, args.max_tokens),
        "LLM.generate": bare_vllm(llm, texts, args.samples, args.max_tokens, seeded=False),
        "LLM.generate, seeded": bare_vllm(llm, texts, args.samples, args.max_tokens, seeded=True),
    }


def race(contenders: dict[str, Contender], rounds: int) -> dict[str, list[dict[str, float]]]:
    """tokens, wall and CPU seconds of every round by contender; who begins changes from round to round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        order = list(contenders)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = contenders[name](number)
            if number > 0:
                found[name].append({"tokens": tokens, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})
    return found


def summary(model: str, parameters: int, found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row per contender; the first is the engine, and the ratios are its speed by theirs, round by round."""
    ours, *_ = found.values()
    rows = []
    for name, rounds in found.items():
        row: dict[str, Any] = {
            "model": model,
            "parameters": parameters,
            "prompts": PROMPTS[model],
            "call": name,
            "rounds": rounds,
        }
        for clock in ("wall_s", "cpu_s"):
            row[f"tokens_per_{clock}"] = statistics.median(r["tokens"] / r[clock] for r in rounds)
            pairs = zip(ours, rounds, strict=True)
            row[f"engine_by_{clock}"] = statistics.median((a["tokens"] / a[clock]) / (b["tokens"] / b[clock]) for a, b in pairs)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | parameters | call | tokens / s | tokens / CPU s | engine / this, wall | engine / this, CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        speeds = " | ".join(f"{r[key]:,.0f}" for key in ("tokens_per_wall_s", "tokens_per_cpu_s"))
        ratios = " | ".join(f"{r[key]:.2f}" for key in ("engine_by_wall_s", "engine_by_cpu_s"))
        lines.append(f"| {r['model']} | {r['parameters'] / 1e6:.1f} M | {r['call']} | {speeds} | {ratios} |")
    return "\n".join(lines)


def num_parameters(path: str) -> int:
    from harmonyray.engines.loading import weight_shapes

    return sum(t.numel() for t in weight_shapes(path, "float32").values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=["hf", "vllm"], default=["hf", "vllm"])
    parser.add_argument("--models", nargs="+", choices=["quickstart", *WIDTHS], default=["quickstart", *WIDTHS])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for rollout_{hf,vllm}.{json,md}")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    asked = {key: getattr(args, key) for key in ("samples", "max_tokens", "rounds")} | {"threads": torch.get_num_threads()}
    asked |= {name: version(name) for name in ("torch", "transformers")}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: model_path(name) if name == "quickstart" else make_model(name, Path(folder)) for name in args.models}
        sizes = {name: num_parameters(path) for name, path in paths.items()}  # before vLLM changes transformers' classes
        for engine in args.engines:
            rows: list[dict[str, Any]] = []
            for name, path in paths.items():
                opened = {"hf": hf_contenders, "vllm": vllm_contenders}[engine](path, prompts(PROMPTS[name]), args)
                with opened as contenders:
                    rows += summary(name, sizes[name], race(contenders, args.rounds))
                brief = {f"{r['model']}, {r['call']}": round(r["engine_by_cpu_s"], 3) for r in rows}
                give_out(args.out, f"rollout_{engine}", table(rows), brief, **asked, results=rows)
    sys.stdout.flush()
    os._exit(0)  # vLLM's own ending takes seconds for each engine


if __name__ == "__main__":
    main()
