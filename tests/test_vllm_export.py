"""What we train is what vLLM serves: the saved model, loaded by a real vLLM, answers as our own engine does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harmonyray.engines.hf import HfEngine
from harmonyray.problems.quickstart import MODEL_DIR, QuickstartSource
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

MAX_TOKENS = 48

# A process of its own: vLLM changes torch, signals and environment for good.
SERVE = """
import json, sys
from vllm import LLM, SamplingParams
model, prompts, max_tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
llm = LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=32)
params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0)
tokens = llm.get_tokenizer()(prompts, add_special_tokens=False)["input_ids"]
out = llm.generate([{"prompt_token_ids": ids} for ids in tokens], params, use_tqdm=False)
rows = []
for request in out:
    completion = request.outputs[0]
    logprobs = [entry[token].logprob for token, entry in zip(completion.token_ids, completion.logprobs)]
    rows.append({"ids": list(completion.token_ids), "logprobs": logprobs})
print("ROWS " + json.dumps(rows), flush=True)
"""


def serve_with_vllm(model: Path, prompts: list[str]) -> list[dict[str, list[float]]]:
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    command = [sys.executable, "-c", SERVE, str(model), json.dumps(prompts), str(MAX_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ROWS ")]
    rows: list[dict[str, list[float]]] = json.loads(line.removeprefix("ROWS "))
    return rows


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM build is installed (`make test` installs one)")
def test_greedy_tokens_and_log_probs_are_vllms(tmp_path: Path) -> None:
    engine = HfEngine(HfEngine.Options(), model="quickstart")
    with_noise = {name: w + 0.01 * w.std() for name, w in engine.weights().items()}
    engine.load_weights(with_noise, policy_version=1)
    engine.model.save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    prompts = [f"SOLVE: {p.text}\n" for p in QuickstartSource(QuickstartSource.Options(limit=20)).problems()]

    asked = [
        SampleRequest(Prompt(str(i), "solver", text=text), (i,), Sampling(MAX_TOKENS, temperature=0))
        for i, text in enumerate(prompts)
    ]
    ours: list[Rollout] = [group[0] for group in engine.sample(asked, policy_version=1)]
    theirs = serve_with_vllm(tmp_path, prompts)

    assert [list(map(int, r.token_ids)) for r in ours] == [row["ids"] for row in theirs]
    gap = max(np.abs(r.logprobs - np.array(row["logprobs"])).max() for r, row in zip(ours, theirs, strict=True))
    assert gap < 1e-4
    shipped = [group[0] for group in HfEngine(HfEngine.Options(), model=str(MODEL_DIR)).sample(asked, 0)]
    assert any(not np.array_equal(a.logprobs, b.logprobs) for a, b in zip(ours, shipped, strict=True)), "the weights were changed"
