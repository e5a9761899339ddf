"""vLLM engines in broadcast groups, through vLLM's own weight-transfer calls: what arrives, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from broadcasting import Learner
from vllm_process import VllmProcess, needs_vllm

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.weights import checksum
from harmonyray.errors import WeightSyncError
from harmonyray.types import Prompt, SampleRequest, Sampling

pytestmark = needs_vllm

SaveModel = Callable[..., str]
SUMS = ["SOLVE: 52-37\n", "REFRAME: 61-28\n", "SOLVE: 98-81\n"]
WORDS = ["a", "b c d", "q w e r t y u i o p a s d f g h"]
GREEDY = Sampling(24, temperature=0)


def ask(texts: list[str], sampling: Sampling) -> list[SampleRequest]:
    return [SampleRequest(Prompt(text, "solver", text=text), (1,), sampling) for text in texts]


@pytest.mark.parametrize(("name", "texts"), [("quickstart", SUMS), ("llama_wide_heads", WORDS)])
def test_logprobs_agree_with_transformers_before_and_after_ten_broadcasts(
    vllm_process: VllmProcess, save_model: SaveModel, name: str, texts: list[str]
) -> None:
    path = name if name == "quickstart" else save_model(name)
    ours, theirs = HfEngine(HfEngine.Options(), path), vllm_process.engine(path, max_model_len=127)
    learner = Learner(theirs)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for version in range(11):
        got, want = theirs.sample(ask(texts, GREEDY), version), ours.sample(ask(texts, GREEDY), version)
        for (g,), (w,) in zip(got, want, strict=True):
            assert g.token_ids.tolist() == w.token_ids.tolist()
            assert g.logprobs == pytest.approx(w.logprobs, abs=1e-4)
        seen.append(np.concatenate([g.logprobs[:3] for (g,) in got]).tolist())
        new = {
            name: t + 0.05 * t.std(correction=0) * torch.randn(t.shape, generator=generator) for name, t in ours.weights().items()
        }
        assert learner.broadcast(new, version + 1) == ours.load_weights(new, version + 1) == checksum(new)
        assert theirs.get("policy_version") == version + 1
        assert theirs.get("engine.get_weight_version()") == str(version + 1)
    assert len({tuple(row) for row in seen}) == 11, "every update shows"


def test_what_does_not_fit_or_does_not_come_changes_nothing(vllm_process: VllmProcess) -> None:
    engine = vllm_process.engine("quickstart", max_num_seqs=31)
    shipped = HfEngine(HfEngine.Options(), "quickstart").weights()
    before = [g[0].token_ids.tolist() for g in engine.sample(ask(SUMS, GREEDY), 0)]
    first, *others = shipped
    for wrong, error, message in (
        (
            shipped | {"model.surplus": torch.zeros(1)},
            KeyError,
            r"does not have 'model\.surplus', which was sent \(1 tensors too many",
        ),
        (
            {name: shipped[name] for name in others},
            KeyError,
            rf"has '{first}', which was not sent \(0 tensors too many, 1 too few",
        ),
        (
            shipped | {"model.norm.weight": torch.ones(95)},
            ValueError,
            r"is torch\.float32 \(95,\), expected torch\.float32 \(96,\)",
        ),
    ):
        learner = Learner(engine)
        with pytest.raises(error, match=message):
            learner.broadcast(wrong, 1)
    silent = Learner(engine, timeout_s=8)
    with pytest.raises(
        WeightSyncError, match=rf"rank 1 \(engine, worker 0\): bucket 0 \(tensor '{first}' and \d+ more, .* within 8 s"
    ):
        engine.receive_weights(specs_of(shipped), 1 << 20, 1)
    assert silent.group.rank == 0
    assert (engine.get("policy_version"), engine.get("state.name")) == (0, "serving")
    assert [g[0].token_ids.tolist() for g in engine.sample(ask(SUMS, GREEDY), 0)] == before
    new = {name: t * 1.01 for name, t in shipped.items()}
    assert Learner(engine).broadcast(new, 1) == checksum(new)


def specs_of(weights: dict[str, torch.Tensor]) -> list[object]:
    from harmonyray.engines.weights import specs

    return list(specs(weights))


def test_two_processes_of_one_engine_are_two_ranks(save_model: SaveModel) -> None:
    """Tensor parallelism on the CPU: both workers receive, each loads its half, and the tokens are those of transformers."""
    path = save_model("llama_wide_heads")
    ours = HfEngine(HfEngine.Options(), path)
    process = VllmProcess()
    try:
        engine = process.engine(path, tensor_parallel_size=2, max_model_len=128)
        assert engine.get("num_weight_ranks") == 2
        learner = Learner(engine, num_ranks=2)
        for version in (1, 2):
            new = {name: t * 1.2 for name, t in ours.weights().items()}
            assert learner.broadcast(new, version) == ours.load_weights(new, version)
            got, want = (e.sample(ask(WORDS, GREEDY), version) for e in (engine, ours))
            assert [g[0].token_ids.tolist() for g in got] == [w[0].token_ids.tolist() for w in want]
        silent = Learner(engine, num_ranks=2, timeout_s=8)
        with pytest.raises(WeightSyncError, match=r"rank 1 \(engine, worker 0\): bucket 0 .* did not arrive: .* within 8 s"):
            engine.receive_weights(specs_of(new), 1 << 20, 3)
        assert silent.group.rank == 0
        assert Learner(engine, num_ranks=2).broadcast(new, 3) == checksum(new)
        engine.close()
    finally:
        process.close()
