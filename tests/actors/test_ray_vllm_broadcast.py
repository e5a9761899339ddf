"""The learner's weights to a vLLM engine between real actors: log-probs agree before and after every update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from actor_helpers import inside, learner_weights, small_config

from harmonyray import build
from harmonyray.engines.hf import HfEngine
from harmonyray.types import Prompt, SampleRequest, Sampling

pytest.importorskip("vllm", reason="no vLLM build is installed (`make test` installs one)")
pytestmark = [pytest.mark.slow, pytest.mark.vllm]

ASKED = [
    SampleRequest(Prompt(t, "solver", text=t), (1,), Sampling(24, temperature=0)) for t in ("SOLVE: 52-37\n", "SOLVE: 98-81\n")
]


def test_logprobs_agree_after_each_broadcast(local_ray: None) -> None:
    config = small_config("rollout.engine.type=vllm", "rollout.engine.kv_cache_gib=0.05", "placement.share.all=[solver,reframer]")
    asked, ours = ASKED, HfEngine(HfEngine.Options(), "quickstart")

    def nudge(self: Any) -> int:
        for i, tensor in enumerate(self.learner.weights().values()):
            tensor.mul_(1 + 0.01 * (i % 3))
        self.learner.policy_version += 1
        return int(self.learner.policy_version)

    with build.open_runtime(config, build.make_views(config)) as (runtime, _):
        (replica,) = runtime.replicas
        for version in range(3):
            got = inside(replica.handle, lambda self: self.engine.sample(asked, self.engine.policy_version))
            want = ours.sample(ASKED, version)
            for (g,), (w,) in zip(got, want, strict=True):
                assert (g.token_ids.tolist(), g.policy_version) == (w.token_ids.tolist(), version)
                assert g.logprobs == pytest.approx(w.logprobs, abs=1e-4)
            runtime.policy_version = inside(runtime.learner, nudge)
            assert runtime.sync()["bytes"] == sum(t.nbytes for t in learner_weights(runtime).values())
            ours.load_weights({k: torch.from_numpy(v) for k, v in learner_weights(runtime).items()}, version + 1)
        assert inside(replica.handle, lambda self: self.engine.engine.get_weight_version()) == "3"
