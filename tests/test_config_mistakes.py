"""A table of mistakes in configurations, with the message that each must give before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harmonyray.config import known_keys, load_config
from harmonyray.errors import ConfigError


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


MISTAKES = [
    # unknown keys, with the nearest valid one
    ("step=3", "unknown option 'step': did you mean 'steps'"),
    ("learner.lrr=1", "unknown option 'learner.lrr': did you mean 'lr'"),
    ("rollout.enigne.type=hf", "unknown option 'rollout.enigne': did you mean 'engine'"),
    ("method.typ=majority_vote", "unknown option 'method.typ': did you mean 'type'"),
    ("views.solver.num_samlpes=3", "unknown option 'views.solver.num_samlpes': did you mean 'num_samples'"),
    ("views.solver.tmplate=3", "unknown option 'views.solver.tmplate': did you mean 'template'"),
    ("placement.view.replica=2", "unknown option 'placement.view.replica': did you mean 'replicas'"),
    ("placement.views.solver.replica=2", "unknown option 'placement.views.solver.replica': did you mean 'replicas'"),
    ("method.selector={type: infomax, lamb: 1}", "lamb': did you mean 'lam'"),
    ("runtime.kind=ray", "unknown option 'runtime.kind': expected one of: call_timeout_s, max_restarts"),
    # ... which may be in another place than the one that was typed
    ("lr=1e-5", "unknown option 'lr': did you mean 'learner.lr'\\?"),
    ("optim.lr=1e-5", "unknown option 'optim': did you mean 'learner.lr'\\?"),
    ("views.solver.lr=1e-5", "unknown option 'views.solver.lr': did you mean 'learner.lr'\\?"),
    (
        "learner.temprature=1",
        "did you mean 'views.solver.temperature' or 'views.reframer.temperature' or 'rollout.temperature'\\?",
    ),
    ("selector=majority", "unknown option 'selector': did you mean 'method.selector'\\?"),
    ("kl=k1", "unknown option 'kl': did you mean 'objective.kl'\\?"),
    ("limit=8", "unknown option 'limit': did you mean 'problems.limit'\\?"),
    ("zzz=8", "unknown option 'zzz': expected one of: advantage, audit, "),
    # unknown types
    ("method.type=self_harmny", "unknown type 'self_harmny' among methods: did you mean 'self_harmony'"),
    ("method.selector=harmnic", "unknown type 'harmnic' among selectors: did you mean 'harmonic'"),
    ("problems.type=quickstrat", "unknown type 'quickstrat' among problems: did you mean 'quickstart'"),
    ("rollout.engine.type=zzz", "unknown type 'zzz' among engines: expected one of: hf"),
    ("views.solver.type=:X", "':X' is not of the form 'package.module:Class'"),
    ("views.solver.type=.x:Y", "'.x:Y' is not of the form 'package.module:Class'"),
    ("views.solver.type='json:'", "'json:' is not of the form 'package.module:Class'"),
    # missing and bad values
    ("problems={type: file}", "missing option 'problems.path'"),
    ("method={type: self_harmony, selector: {type: bootstrap}}", r"missing option '\S*\.of'"),
    ("steps=abc", "bad value for 'steps'.*got 'abc'"),
    ("steps=2.5", "bad value for 'steps'.*got 2.5"),
    ("steps=0", "bad value for 'steps'.*greater than 0"),
    ("seed=-1", "bad value for 'seed'"),
    ("learner.lr=-1", "bad value for 'learner.lr'.*greater than 0.*got -1"),
    ("learner.lr=inf", "bad value for 'learner.lr'.*finite"),
    ("rollout.temperature=inf", "bad value for 'rollout.temperature'.*finite"),
    ("rollout.temperature=nan", "bad value for 'rollout.temperature'"),
    ("eval.top_p=1.1", "bad value for 'eval.top_p'"),
    ("runtime.type=inprocess", "bad value for 'runtime.type'.*'ray' or 'in_process'"),
    ("sync.backend=ncl", "bad value for 'sync.backend'.*'auto', 'gloo', 'nccl' or 'ipc'"),
    ("name=a/b", "bad value for 'name'"),
    ("name=null", "bad value for 'name'"),
    ("views.solver.template=hello", r"bad value for 'views.solver.template'.*never mentions \{question\}"),
    ("views.solver.num_samples=0", "bad value for 'views.solver.num_samples'.*greater than 0"),
    # a value where a mapping belongs, or the reverse
    ("steps.x=3", "bad value for 'steps'"),
    ("rollout=3", "bad value for 'rollout'"),
    ("method=majority_vote", "'method' must be a mapping with a 'type', got 'majority_vote'"),
    ("views=3", "'views' must be a mapping of view names.*got 3"),
    ("views.solvr.num_samples=8", "'views.solvr' must be a mapping .* did you mean 'views.solver'"),
    ("views.solver=3", "'views.solver' must be a mapping with a 'type', got 3"),
    ("views=[solver]", "a list stands where a mapping of keys is expected"),
    ("rollout=[1]", "a list stands where a mapping of keys is expected"),
    # impossible combinations
    ("views=null", "'views' is empty"),
    ("views.reframer=null", "self_harmony compares views and needs at least 2, got 1"),
    ("views.a b={type: solver}", "'views.a b': a view's name goes into metric names"),
    (
        "placement.views.solvr.num_cpus=2",
        "'placement.views.solvr' places a view or group that does not exist: did you mean 'solver'",
    ),
    ("sync.backend=nccl", "'sync.backend' is nccl, but a trained view or the learner has num_gpus 0"),
    ("sync.backend=ipc", "'sync.backend' is ipc, which hands GPU memory to an engine of type vllm on the learner's GPU"),
    ("placement.share.both=[solver,reframr]", "'placement.share.both' names a view that does not exist: did you mean 'reframer'"),
    ("placement.share.both=[solver]", "'placement.share.both' names 1 view.*at least two"),
    ("placement.share.solver=[solver,reframer]", "'placement.share.solver' has the name of a view"),
    ("placement.share={a: [solver, reframer], b: [reframer, solver]}", "view 'solver'|view 'reframer', which 'a' has already"),
    ("placement.share.both=[solver,reframer] & views.solver.model=other/one", "holds views of different models"),
    ("placement.share.both=[solver,reframer] & placement.views.solver.replicas=2", "shares group 'both': place that instead"),
    (
        "views.solver.model=quickstart & placement.share.both=[solver,reframer]",
        "solver .quickstart., reframer .trained.",
    ),
    (
        "views.reframer.model=quickstart & placement.share.both=[solver,reframer]",
        "solver .trained., reframer .quickstart.",
    ),
    ("views.solver.model=''", "bad value for 'views.solver.model'"),
    ("views.solver.stop=['']", "bad value for 'views.solver.stop"),
    ("audit.action=down_weight & method.selector=majority", "selector Majority does not weigh views"),
    ("views.solver.model=a/b & views.reframer.model=a/b", "every view has a 'model' of its own, so there is nothing to train"),
    ("views.solver.top_p=0.9", "'views.solver.top_p' is 0.9, but the view is trained"),
    ("audit.action=down_weight & method={type: ground_truth}", "method ground_truth does not weigh views: use report"),
    ("audit.min_answerd=0.1", "unknown option 'audit.min_answerd': did you mean 'min_answered'"),
    ("problems.holdout=1", "bad value for 'problems.holdout'"),
    ("runtime.type=in_process & placement.view.replicas=2", "in_process, which has one engine per view"),
    ("method.selector={type: harmonic, weights: [1, 2, 3]}", "'weights' has 3 entries but there are 2 views"),
    ("method.selector={type: harmonic, weights: [0, 0]}", "weights must be finite numbers, none negative and not all zero"),
    # overrides and interpolations that cannot be read
    ("learner.lr", "'learner.lr' is not of the form key=value"),
    ("=3", "'=3' is not of the form key=value"),
    ("steps={a:", "cannot be read"),
    ("seed=${nope}", "seed: Interpolation key 'nope' not found"),
    ("seed=${oc.env:HARMONYRAY_NOT_SET}", "HARMONYRAY_NOT_SET"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config("quickstart", override.split(" & "))


def test_several_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", ["step=3", "eval.evry=1", "seed=x"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "bad value for 'seed'",
        "unknown option 'eval.evry'",
        "unknown option 'step'",
    ]


def test_every_key_that_a_hint_may_name_is_one() -> None:
    """Also where the configuration is wrong: an unknown type has no options."""
    whole = load_config("quickstart").to_container()
    keys = known_keys(whole)
    assert {"steps", "views.reframer.num_samples", "views.reframer.template", "rollout.engine.max_batch_rows"} <= set(keys)
    for key in keys:
        inner: Any = whole
        for part in key.split("."):
            assert part in inner, key
            inner = inner[part]
    assert "learner.lr" not in known_keys({**whole, "learner": {"type": "nope"}, "views": {}})


BROKEN_FILES = [
    ("a: [1", "cannot be read"),
    ("a: 1\na: 2", "cannot be read"),
    ("- 1\n- 2", "must hold a mapping of keys, got list"),
    ("3", "cannot be read"),
    ("\x00", "cannot be read"),
    ("", "missing option 'name'"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "broken.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "bytes.yaml"))


def test_a_missing_file_and_a_missing_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"no config named 'quikstart': did you mean 'quickstart'.*path of a \.yaml file"):
        load_config("quikstart")


def test_base_alone_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="missing option 'name'"):
        load_config("base")
