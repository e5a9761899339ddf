"""DeepSpeed's AdamW for an optimizer in the host's memory, which is compiled at first use, for a minute or two."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deepspeed_ranks import OPTIONS, Job, furthest, needs_deepspeed, some_batches, torch_outcome

pytestmark = needs_deepspeed

CPU_ADAM = {"optimizer": "cpu_adam", "offload": ["optimizer"]}
COMPILE = "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()"


@pytest.fixture(scope="module")
def compiled() -> None:
    """Beforehand, since ranks wait for each other no longer than `learner.collective_timeout_s`."""
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("no C++ compiler or no ninja on the PATH")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env={**os.environ, "DS_ACCELERATOR": "cpu"}, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_its_numbers_are_those_of_torch(compiled: None, ranks: Any, workshop: Any, stage: int, tmp_path: Path) -> None:
    """Also after a checkpoint."""
    job = Job(OPTIONS | CPU_ADAM | {"zero_stage": stage}, some_batches(workshop, 4), workshop.model)
    want = torch_outcome(workshop, job)
    first = replace(job, batches=job.batches[:2], save=tmp_path)
    second = replace(job, batches=job.batches[2:], load=tmp_path, first=3)
    assert furthest(ranks[2].run(job)[0].weights, want.weights) < 1e-5
    ranks[2].run(first)
    assert furthest(ranks[2].run(second)[0].weights, want.weights) < 1e-5


def test_where_it_cannot_be_compiled_the_error_says_so(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from harmonyray.errors import ConfigError\n"
        "from harmonyray.learners.zero import make_optimizer\n"
        "try:\n"
        "    make_optimizer('cpu_adam', [torch.nn.Parameter(torch.zeros(4))], 0.1, 0.0)\n"
        "except ConfigError as e:\n"
        "    print(e)\n"
    )
    env = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "CXX": "/bin/false", "CC": "/bin/false"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert "'learner.optimizer' is cpu_adam, which DeepSpeed could not compile here" in done.stdout, done.stderr
    assert "install a C++ compiler and ninja, or use adamw" in done.stdout
