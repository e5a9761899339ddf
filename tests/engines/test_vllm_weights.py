"""Replacing weights in a running vLLM: what is refused, what the checksum vouches for, and the states around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from vllm_process import KV_CACHE_GIB, RemoteEngine, VllmProcess, needs_vllm

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.states import EngineStateError
from harmonyray.engines.weights import checksum
from harmonyray.errors import ConfigError, ModelError, WeightSyncError
from harmonyray.types import Prompt, SampleRequest, Sampling

pytestmark = needs_vllm

SaveModel = Callable[..., str]
ASKED = [
    SampleRequest(Prompt(text, "solver", text=text), (1, 2, 3), Sampling(40)) for text in ("SOLVE: 52-37\n", "REFRAME: 61-28\n")
]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def shipped() -> Weights:
    return HfEngine(HfEngine.Options(), "quickstart").weights()


def fresh(process: VllmProcess, number: int) -> RemoteEngine:
    """An engine that a test may change or break; `number` tells it from the others."""
    return process.engine("quickstart", max_num_seqs=16 + number)


def tokens(engine: RemoteEngine, version: int) -> list[list[list[int]]]:
    return [[r.token_ids.tolist() for r in group] for group in engine.sample(ASKED, version)]


def test_what_cannot_be_loaded_changes_nothing(vllm_process: VllmProcess, shipped: Weights) -> None:
    engine = fresh(vllm_process, 0)
    before = tokens(engine, 0)
    first, *others = shipped
    for wrong, message in (
        (
            shipped | {"model.surplus": torch.zeros(1)},
            r"does not have 'model\.surplus', which was sent \(1 tensors too many, 0 too few\)",
        ),
        ({name: shipped[name] for name in others}, rf"has '{first}', which was not sent \(0 tensors too many, 1 too few\)"),
    ):
        with pytest.raises(KeyError, match=message):
            engine.load_weights(wrong, 1)
    with pytest.raises(ValueError, match=r"is torch\.float32 \(95,\), expected torch\.float32 \(96,\)"):
        engine.load_weights(shipped | {"model.norm.weight": torch.ones(95)}, 1)
    assert engine.get("policy_version") == 0
    assert engine.get("state.name") == "serving"
    assert tokens(engine, 0) == before


def test_the_checksum_is_that_of_the_learners_order(vllm_process: VllmProcess, shipped: Weights) -> None:
    engine = fresh(vllm_process, 0)
    backwards = {name: shipped[name] for name in reversed(shipped)}
    assert engine.load_weights(backwards, 1) == checksum(shipped) != checksum(backwards)


def test_what_the_prefix_cache_remembers_goes_with_the_old_weights(vllm_process: VllmProcess, save_model: SaveModel) -> None:
    path = save_model("llama_wide_heads")
    engine = vllm_process.engine(path, max_model_len=128, engine_args={"block_size": 32})
    ours = HfEngine(HfEngine.Options(), path)
    asked = [
        SampleRequest(Prompt("p", "v", text="q w e r t y u i o p a s d f g h j k l z x c v b n m " * 3), (1,), Sampling(16, 0))
    ]
    generator = torch.Generator().manual_seed(1)
    for version in range(3):
        got, want = (e.sample(asked, version) for e in (engine, ours))
        assert got[0][0].token_ids.tolist() == want[0][0].token_ids.tolist()
        new = {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in ours.weights().items()}
        engine.load_weights(new, version + 1)
        ours.load_weights(new, version + 1)


DAMAGE = """
from unittest.mock import patch
from harmonyray.engines import vllm_weights
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

load = Qwen3ForCausalLM.load_weights

def loads(change):
    def load_weights(self, weights):
        return load(self, (pair for pair in (change(n, t) for n, t in weights) if pair))
    return patch.object(Qwen3ForCausalLM, "load_weights", load_weights)

damages = {
    "old packed head": lambda: patch.object(vllm_weights, "_repack_heads"),
    "packed layer": lambda: loads(lambda n, t: (n, t / 2) if ".1.self_attn.v_proj." in n else (n, t)),
    "raw layer": lambda: loads(lambda n, t: (n, t / 2) if "1.input_layernorm" in n else (n, t)),
    "left out": lambda: loads(lambda n, t: None if ".1.mlp.down_proj." in n else (n, t)),
    "partly left out": lambda: loads(lambda n, t: None if ".1.self_attn.k_proj." in n else (n, t)),
}
with damages[damage]():
    result = globals()[name].load_weights(new, 1)
"""


@pytest.mark.parametrize(
    ("number", "damage", "message"),
    [
        (1, "old packed head", r"do not hold what was sent in 1 tensors, 'lm_head \(its packed copy\)'"),
        (2, "packed layer", r"do not hold what was sent in 1 tensors, 'model\.layers\.1\.self_attn\.v_proj\.weight'"),
        (3, "raw layer", r"do not hold what was sent in 1 tensors, 'model\.layers\.1\.input_layernorm\.weight'"),
        (4, "left out", r"did not load 1 tensors of its model, 'model\.layers\.1\.mlp\.down_proj\.weight'"),
        (5, "partly left out", r"did not load 1 tensors of its model, 'model\.layers\.1\.self_attn\.qkv_proj'"),
    ],
)
def test_a_layer_that_does_not_hold_what_was_sent_is_found(
    vllm_process: VllmProcess, shipped: Weights, number: int, damage: str, message: str
) -> None:
    """vLLM is damaged in several ways; each is refused, and the engine cannot be used afterwards."""
    engine = fresh(vllm_process, number)
    new = {name: t * 1.01 for name, t in shipped.items()}
    with pytest.raises(WeightSyncError, match=message):
        vllm_process.run(DAMAGE, damage=damage, new=new, name=engine._name)
    assert engine.get("state.name") == "updating"
    for call in (lambda: tokens(engine, 0), lambda: engine.load_weights(shipped, 1), engine.pause, engine.sleep):
        with pytest.raises(EngineStateError, match="updating"):
            call()


def test_weights_that_cannot_be_read_back_are_said_to_be(vllm_process: VllmProcess, save_model: SaveModel) -> None:
    """GPT-2's matrices lie otherwise in vLLM: they are loaded, and the user is told what the checksum is worth."""
    path = save_model("gpt2_wide")
    engine, ours = vllm_process.engine(path), HfEngine(HfEngine.Options(), path)
    new = {name: t * 1.1 for name, t in ours.weights().items()}
    code = "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n"
    load = f"    checksum = {engine._name}.load_weights(new, 1)\nresult = checksum, [str(w.message) for w in seen]"
    held, (warning,) = vllm_process.run(code + load, new=new)
    assert held == ours.load_weights(new, 1)
    assert f"{len(new)} of {len(new)} weights, 'transformer.wte.weight' for one, cannot be read back" in warning
    asked = [SampleRequest(Prompt("p", "v", text="q w e"), (1,), Sampling(16, 0))]
    got, want = (e.sample(asked, 1) for e in (engine, ours))
    assert got[0][0].token_ids.tolist() == want[0][0].token_ids.tolist()


# --- states ------------------------------------------------------------------------------------------------------------------


def test_paused_and_asleep_engines_do_not_generate_and_come_back(vllm_process: VllmProcess, shipped: Weights) -> None:
    engine = fresh(vllm_process, 6)
    before = tokens(engine, 0)
    engine.pause()
    with pytest.raises(EngineStateError, match="cannot generate: the engine is paused, and has to be serving"):
        tokens(engine, 0)
    assert engine.load_weights(shipped, 1) == checksum(shipped)
    assert engine.get("state.name") == "paused"
    engine.resume()
    assert tokens(engine, 1) == before
    engine.sleep()
    for call, message in (
        (lambda: tokens(engine, 1), "cannot generate: the engine is asleep, and has to be serving"),
        (lambda: engine.load_weights(shipped, 2), "asleep cannot become updating: expected serving"),
        (engine.sleep, "asleep cannot become asleep"),
        (engine.resume, "cannot resume: the engine is asleep, and has to be paused"),
    ):
        with pytest.raises(EngineStateError, match=message):
            call()
    assert engine.get("policy_version") == 1
    engine.wake()
    assert tokens(engine, 1) == before
    with pytest.raises(EngineStateError, match="cannot wake: the engine is serving, and has to be asleep"):
        engine.wake()


def test_sleeping_frees_the_key_value_cache(vllm_process: VllmProcess) -> None:
    engine = fresh(vllm_process, 6)
    tensors = f"{engine._name}.engine.model_executor.driver_worker.model_runner.kv_caches"
    code = f"storages = {{t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in {tensors}}}\n"
    held = vllm_process.run(code + "result = sum(storages.values())")
    assert 0.9 * KV_CACHE_GIB * 2**30 < held <= KV_CACHE_GIB * 2**30
    engine.sleep()
    assert vllm_process.run(code + "result = sum(storages.values())") == 0
    engine.wake()
    assert vllm_process.run(code + "result = sum(storages.values())") == held


# --- starting and closing ----------------------------------------------------------------------------------------------------


def test_arguments_that_vllm_does_not_know_or_cannot_use(vllm_process: VllmProcess, save_model: SaveModel) -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'rollout\.engine\.engine_args\.blok_size': did you mean 'block_size'"):
        vllm_process.engine("quickstart", engine_args={"blok_size": 32})
    with pytest.raises(
        ModelError, match=r"vLLM cannot serve model 'quickstart' with these rollout\.engine options: .*max_model_len"
    ):
        vllm_process.engine("quickstart", max_model_len=100_000)
    with pytest.raises(ModelError, match="does not exist"):
        vllm_process.engine("./nowhere")


def test_the_process_keeps_its_number_of_threads(vllm_process: VllmProcess) -> None:
    fresh(vllm_process, 0)
    code = "import torch\ntorch.set_num_threads(2)\ntwo = torch.get_num_threads()\ntorch.set_num_threads(1)\n"
    assert vllm_process.run(code + "result = two, torch.get_num_threads()") == (2, 1)


CLOSE = """
import psutil
from harmonyray.engines.vllm import VllmEngine
from harmonyray.types import Prompt, SampleRequest, Sampling
asked = [SampleRequest(Prompt("p", "v", text="SOLVE: 52-37"), (1,), Sampling(4))]
engine = VllmEngine(VllmEngine.Options(), "quickstart")
stream = engine.stream([SampleRequest(asked[0].prompt, (1,), Sampling(n)) for n in (1, 40)], 0)
next(stream)
engine.close()
engine.close()
try:
    next(stream)
except Exception as e:
    ended = str(e)
try:
    engine.sample(asked, 0)
except Exception as e:
    refused = str(e)
forgotten = VllmEngine(VllmEngine.Options(), "quickstart")
forgotten.sample(asked, 0)
del forgotten
import gc
last = VllmEngine(VllmEngine.Options(), "quickstart")
gc.collect()
answers = len(last.sample(asked, 0))
last.close()
result = ended, refused, answers, [p.name() for p in psutil.Process().children(recursive=True)]
"""


def test_a_closed_engine_leaves_nothing_behind_and_makes_room_for_the_next() -> None:
    process = VllmProcess()
    try:
        ended, refused, answers, children = process.run(CLOSE)
    finally:
        process.close()
    assert ended == "cannot go on generating: the engine is closed now"
    assert refused == "cannot generate: the engine is closed, and has to be serving"
    assert (answers, children) == (1, [])


PARALLEL = """
import psutil, warnings
from harmonyray.engines.vllm import VllmEngine
engine = VllmEngine(VllmEngine.Options(tensor_parallel_size=2, max_model_len=128), model)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    held = engine.load_weights(new, 1)
workers = [p for p in psutil.Process().children(recursive=True) if p.memory_info().rss > 5e8]
rollouts = engine.sample(asked, 1)
engine.close()
left = [p.pid for p in psutil.wait_procs(workers, timeout=60)[1]]  # vLLM kills one that is slow to end, and does not wait
result = held, rollouts, len(workers), left, [str(w.message) for w in seen if "read back" in str(w.message)]
"""


def test_two_processes_for_one_engine(save_model: SaveModel) -> None:
    """Tensor parallelism on the CPU: the same tokens, the weights reach both halves, and both processes end."""
    path = save_model("llama_wide_heads")
    ours = HfEngine(HfEngine.Options(), path)
    new = {name: t * 1.2 for name, t in ours.weights().items()}
    asked = [SampleRequest(Prompt(t, "v", text=t), (1,), Sampling(16, 0)) for t in ("q w e", "a b c d e")]
    process = VllmProcess()
    try:
        held, got, workers, left, told = process.run(PARALLEL, model=path, new=new, asked=asked)
    finally:
        process.close()
    assert held == ours.load_weights(new, 1)
    want = ours.sample(asked, 1)
    assert [g[0].token_ids.tolist() for g in got] == [w[0].token_ids.tolist() for w in want]
    assert (workers, left, len(told)) == (2, [], 1)
