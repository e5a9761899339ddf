"""What a configuration may ask of machines: GPUs in whole or as a share, engines beside the learner, engines on several."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harmonyray.config import load_config
from harmonyray.errors import ConfigError

VLLM = "rollout.engine={type: vllm, engine_args: {enable_sleep_mode: true}}"
SHARED = "placement.share.both=[solver,reframer]"

MISTAKES = [
    # shares of GPUs
    ("placement.view.num_gpus=1.5", "bad value for 'placement.view.num_gpus'.*has to be whole"),
    ("placement.views.solver.num_gpus=2.5", "bad value for 'placement.views.solver.num_gpus'.*has to be whole"),
    ("placement.learner.num_gpus=-1", "bad value for 'placement.learner.num_gpus'"),
    # custom resources
    (
        "placement.view.resources={GPU: 1}",
        "bad value for 'placement.view.resources'.*'GPU' is no custom resource: use num_cpus or",
    ),
    ("placement.views.solver.resources={memory: 1}", "'memory' is no custom resource"),
    ("placement.learner.resources={rack: 0}", "bad value for 'placement.learner.resources.rack'"),
    ("placement.strategy=scatter", "bad value for 'placement.strategy'.*'pack' or 'spread'"),
    # engines beside the learner
    (
        "placement.colocate=[solvr]",
        "'placement.colocate' names a view or group that does not exist, 'solvr': did you mean 'solver'",
    ),
    (f"{SHARED} & placement.colocate=[solver]", "'solver': the view shares group 'both': name that instead"),
    ("placement.colocate=[solver,solver]", "'placement.colocate' names 'solver' twice"),
    (
        "placement.colocate=[solver] & placement.learner.num_gpus=1 & placement.views.solver.num_gpus=1",
        r"on one GPU, but they ask for 2 GPUs \(a replica of each: learner 1, solver 1\).*placement.learner.num_gpus=0.5",
    ),
    (
        "placement.colocate=[solver] & placement.learner.num_gpus=0.5",
        r"ask for 0.5 GPUs \(a replica of each: learner 0.5, solver 0",
    ),
    (
        "placement.colocate=[solver] & placement.learner.num_gpus=0.5 & placement.views.solver={num_gpus: 0.3, replicas: 2}",
        "ask for 1.1 GPUs",
    ),
    # engines over several GPUs
    (
        f"{VLLM} & rollout.engine.tensor_parallel_size=2 & placement.view.num_gpus=1",
        "'rollout.engine.tensor_parallel_size' is 2, but placement.views.solver gives a replica 1 GPUs.*"
        "set placement.views.solver.num_gpus=2, or rollout.engine.tensor_parallel_size=1",
    ),
    (
        f"{VLLM} & placement.views.reframer.num_gpus=4",
        "tensor_parallel_size' is 1, but placement.views.reframer gives a replica 4 GPUs",
    ),
    (
        f"{VLLM} & {SHARED} & placement.views.both.num_gpus=2",
        "tensor_parallel_size' is 1, but placement.views.both gives a replica 2 GPUs",
    ),
    (f"{VLLM} & rollout.engine.tensor_parallel_size=2 & placement.view.num_gpus=0.5", "is 2, but .* gives a replica 0.5 GPUs"),
    (
        f"{VLLM} & placement.view.num_gpus=0.5",
        "0.5 of a GPU, but 'rollout.engine.gpu_memory_utilization' is 0.9, a share of the whole GPU: set it to 0.5 or less",
    ),
    (
        "rollout.engine={type: vllm, gpu_memory_utilization: 0.5} & placement.colocate=[solver] & placement.view.num_gpus=0.5 & "
        "placement.learner.num_gpus=0.5",
        "placement.views.solver is colocated with the learner.*engine_args.enable_sleep_mode=true",
    ),
    (
        "placement.colocate=[solver] & placement.learner.num_gpus=0.5 & placement.view.num_gpus=0.5",
        "'placement.colocate' seats engines on the learner's GPU, but engine hf cannot sleep.*rollout.engine.type=vllm",
    ),
    # broadcasts
    (
        f"{VLLM} & sync.backend=ipc & placement.view.num_gpus=1 & placement.learner.num_gpus=1",
        "'sync.backend' is ipc, .* name every trained view in placement.colocate",
    ),
    (
        "sync.backend=nccl & placement.view.num_gpus=0.5 & placement.learner.num_gpus=1",
        "'sync.backend' is nccl, but a trained view or the learner has num_gpus 0.5: NCCL refuses two members on one GPU",
    ),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config("quickstart", override.split(" & "))


FINE = [
    "placement.colocate=[solver,reframer]",
    f"{SHARED} & placement.colocate=[both]",
    f"{VLLM} & rollout.engine.gpu_memory_utilization=0.3 & placement.colocate=[solver] & placement.learner.num_gpus=0.4 & "
    "placement.views.solver={num_gpus: 0.3, replicas: 2}",
    "placement.view.num_gpus=0.5 & placement.learner.num_gpus=1",
    f"{VLLM} & rollout.engine.tensor_parallel_size=2",  # on CPUs they are processes
    f"{VLLM} & rollout.engine.tensor_parallel_size=2 & placement.view.num_gpus=2 & placement.learner.num_gpus=1",
    f"{VLLM} & rollout.engine.gpu_memory_utilization=0.45 & placement.view.num_gpus=0.5",
    f"{VLLM} & rollout.engine.kv_cache_gib=4 & placement.view.num_gpus=0.5",
    f"{VLLM} & rollout.engine.gpu_memory_utilization=0.5 & placement.colocate=[solver] & placement.view.num_gpus=0.5 & "
    "placement.learner.num_gpus=0.5",
    "sync.backend=nccl & placement.view.num_gpus=1 & placement.learner.num_gpus=1",
    "sync.backend=nccl & placement.view.num_gpus=1 & placement.learner.num_gpus=1 & views.solver.model=a/b & "
    "placement.views.solver.num_gpus=0.5",  # a view that is not trained takes no part in a broadcast
]


@pytest.mark.parametrize("override", FINE)
def test_what_works_is_let_through(override: str) -> None:
    load_config("quickstart", override.split(" & "))


def test_exceptions_inherit_what_they_do_not_set() -> None:
    config = load_config(
        "quickstart", ["placement.view={num_cpus: 2, resources: {rack_a: 1}}", "placement.views.reframer.resources={rack_b: 1}"]
    )
    solver, reframer = config.placement.for_group("solver"), config.placement.for_group("reframer")
    assert (solver.num_cpus, solver.resources) == (2, {"rack_a": 1})
    assert (reframer.num_cpus, reframer.resources) == (2, {"rack_b": 1})


def test_an_engine_of_the_users_own_says_what_gpus_it_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_gpus` is optional, and called for every group with what the group gets."""
    (tmp_path / "pairs.py").write_text(
        "from harmonyray.errors import ConfigError\n"
        "from harmonyray.registry import PluginOptions\n"
        "class Pairs:\n"
        "    class Options(PluginOptions):\n"
        "        each: int = 2\n"
        "    @staticmethod\n"
        "    def check_gpus(options, where, num_gpus, colocated):\n"
        "        if num_gpus != options.each:\n"
        "            raise ConfigError(f'{where}: {num_gpus:g} is not {options.each}, colocated: {colocated}')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    engine = "rollout.engine={type: 'pairs:Pairs'}"
    load_config("quickstart", [engine, "placement.view.num_gpus=2"])
    with pytest.raises(ConfigError, match=r"placement\.views\.reframer: 3 is not 2, colocated: False"):
        load_config("quickstart", [engine, "placement.view.num_gpus=2", "placement.views.reframer.num_gpus=3"])
    with pytest.raises(ConfigError, match=r"placement\.views\.solver: 0 is not 2, colocated: True"):
        load_config("quickstart", [engine, "placement.colocate=[solver]"])
