"""Names to classes: built-in plug-ins by short name, the user's own as `package.module:Class`.

A plug-in is a class with a nested pydantic model `Options`. Built-ins are listed as import paths, so that naming one
costs nothing until it is used.
"""

from __future__ import annotations

import difflib
import importlib
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from harmonyray.errors import ConfigError

BUILT_IN: dict[str, dict[str, str]] = {
    "problems": {
        "file": "harmonyray.problems.file:FileSource",
        "hub": "harmonyray.problems.hub:HubSource",
        "quickstart": "harmonyray.problems.quickstart:QuickstartSource",
    },
    "views": {
        "solver": "harmonyray.views.solver:Solver",
        "reframer": "harmonyray.views.reframer:Reframer",
        "staged_reframer": "harmonyray.views.reframer:StagedReframer",
        "static": "harmonyray.views.solver:Static",
        "persona": "harmonyray.views.solver:Persona",
        "prompt": "harmonyray.views.solver:PromptView",
    },
    "selectors": {
        "harmonic": "harmonyray.selectors.means:Harmonic",
        "arithmetic": "harmonyray.selectors.means:Arithmetic",
        "geometric": "harmonyray.selectors.means:Geometric",
        "power_mean": "harmonyray.selectors.means:PowerMean",
        "infomax": "harmonyray.selectors.infomax:Infomax",
        "consistency": "harmonyray.selectors.infomax:Consistency",
        "mean_variance": "harmonyray.selectors.infomax:MeanVariance",
        "infomax_exact": "harmonyray.selectors.infomax:InfomaxExact",
        "majority": "harmonyray.selectors.votes:Majority",
        "self": "harmonyray.selectors.votes:SelfVote",
        "cross": "harmonyray.selectors.votes:Cross",
        "mutual_information": "harmonyray.selectors.information:MutualInformation",
        "true_mutual_information": "harmonyray.selectors.information:TrueMutualInformation",
        "determinant": "harmonyray.selectors.information:Determinant",
        "reliability": "harmonyray.selectors.reliability:Reliability",
        "bootstrap": "harmonyray.selectors.modifiers:Bootstrap",
        "schedule": "harmonyray.selectors.modifiers:Schedule",
        "mixed": "harmonyray.selectors.modifiers:Mixed",
    },
    "methods": {
        "self_harmony": "harmonyray.algos.self_harmony:SelfHarmony",
        "majority_vote": "harmonyray.algos.majority_vote:MajorityVote",
        "co_reward": "harmonyray.algos.co_reward:CoReward",
        "intuitor": "harmonyray.algos.intuitor:Intuitor",
        "rent": "harmonyray.algos.rent:Rent",
        "empo": "harmonyray.algos.empo:Empo",
        "self_certainty_vote": "harmonyray.algos.self_certainty_vote:SelfCertaintyVote",
        "ground_truth": "harmonyray.algos.ground_truth:GroundTruth",
    },
    "rewards": {
        "match": "harmonyray.algos.answer_rewards:Match",
        "soft_rank": "harmonyray.algos.answer_rewards:SoftRank",
        "score": "harmonyray.algos.answer_rewards:Score",
        "w1": "harmonyray.algos.answer_rewards:W1",
        "w2": "harmonyray.algos.answer_rewards:W2",
        "kl": "harmonyray.algos.answer_rewards:Kl",
    },
    "advantages": {
        "grpo": "harmonyray.algos.advantages:Grpo",
        "dr_grpo": "harmonyray.algos.advantages:DrGrpo",
        "rloo": "harmonyray.algos.advantages:Rloo",
    },
    "losses": {
        "ppo_clip": "harmonyray.algos.losses.ppo_clip:PpoClip",
        "gspo": "harmonyray.algos.losses.gspo:Gspo",
        "cispo": "harmonyray.algos.losses.cispo:Cispo",
        "truncated_is": "harmonyray.algos.losses.truncated_is:TruncatedIs",
    },
    "graders": {"answers": "harmonyray.answers.grader:AnswerGrader"},
    "engines": {"hf": "harmonyray.engines.hf:HfEngine", "vllm": "harmonyray.engines.vllm:VllmEngine"},
    "learners": {
        "torch": "harmonyray.learners.torch:TorchLearner",
        "deepspeed": "harmonyray.learners.deepspeed:DeepSpeedLearner",
    },
}

NEAR = 0.5  # of 1: how alike names have to be to be taken for each other
NEAR_ELSEWHERE = 0.75  # the same in another place of a configuration, where there are many more
MOST_SHOWN = 3


def nearest(name: str, choices: list[str]) -> str:
    """A sentence fragment that names the closest of `choices`, or all of them when none is close."""
    close = difflib.get_close_matches(name, choices, n=MOST_SHOWN, cutoff=NEAR)
    return _question(close) if close else "expected one of: " + ", ".join(sorted(choices))


def _question(close: list[str]) -> str:
    return "did you mean " + " or ".join(repr(c) for c in close) + "?"


def resolve(kind: str, name: str) -> type[Any]:
    """The class that `name` stands for among the plug-ins of `kind` (a key of `BUILT_IN`).

    Raises ConfigError when there is no such name, module or class, or when the class has no nested `Options`.
    """
    known = BUILT_IN[kind]
    target = known.get(name)
    if target is None:
        if ":" not in name:
            raise ConfigError(
                f"unknown type {name!r} among {kind}: {nearest(name, list(known))} "
                "(your own class is named 'package.module:Class')"
            )
        target = name
    module_name, _, class_name = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise ConfigError(f"{kind} type {name!r} is not of the form 'package.module:Class'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module_name}.".startswith(f"{e.name}."):
            raise
        raise ConfigError(
            f"{kind} type {name!r}: no module {e.name!r} can be imported; is its package installed or on PYTHONPATH?"
        ) from e
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"{kind} type {name!r}: module {module_name!r} has no class {class_name!r}: {nearest(class_name, classes)}"
        )
    options = getattr(cls, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel) and options.model_config.get("extra") == "forbid"):
        raise ConfigError(
            f"{kind} type {name!r}: a plug-in needs a nested class Options(harmonyray.registry.PluginOptions), "
            f"a pydantic model that forbids extra keys; {class_name} has none"
        )
    return cls


class PluginOptions(BaseModel):
    """The base of every plug-in's nested `Options`: frozen, and an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def make_options(
    kind: str,
    name: str,
    where: str,
    values: Mapping[str, Any],
    beside: Collection[str] = (),
    elsewhere: Callable[[], Collection[str]] = tuple,
) -> PluginOptions:
    """The validated `Options` of plug-in `name`; `where` is the dotted config path that errors name.

    For the suggestions: `beside` are keys that are valid at `where` but no options, `elsewhere` gives dotted ones of all places.
    Raises ConfigError that names each bad option, its value and the nearest valid one.
    """
    cls = resolve(kind, name)
    try:
        return cls.Options(**values)
    except ValidationError as e:
        raise ConfigError(explain(e, where, cls.Options, beside, elsewhere)) from e


class PluginSpec(BaseModel):
    """A plug-in named inside another's options, as in the YAML: `{type: harmonic, smoothing: 1}` or just `harmonic`.

    A subclass says which `kind` it names. Raises ConfigError for an unknown type or option.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: ClassVar[str]

    type: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> PluginSpec:
        self.parse()
        return self

    def parse(self) -> PluginOptions:
        """The validated options."""
        return make_options(self.kind, self.type, self.type, self.model_extra or {})

    def build(self) -> Any:
        """The plug-in this names."""
        return resolve(self.kind, self.type)(self.parse())


def explain(
    error: ValidationError,
    where: str,
    model: type[BaseModel],
    beside: Collection[str] = (),
    elsewhere: Callable[[], Collection[str]] = tuple,
) -> str:
    """One line per problem of a pydantic error, with the nearest valid key for a misspelled one (also of those `beside`, or of
    the dotted ones `elsewhere`)."""
    lines = []
    for item in error.errors():
        path = [str(p) for p in item["loc"]]
        dotted = ".".join(([where] if where else []) + path)
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, path[:-1]) + ([] if path[:-1] else list(beside))
            lines.append(f"unknown option {dotted!r}: {_nearest_option(path[-1], item['input'], fields, elsewhere)}")
        elif item["type"] == "missing":
            lines.append(f"missing option {dotted!r}: it has no default and must be given")
        else:
            lines.append(f"bad value for {dotted!r}: {item['msg']} (got {item['input']!r})")
    return "\n".join(lines)


def _nearest_option(name: str, value: Any, fields: list[str], elsewhere: Callable[[], Collection[str]]) -> str:
    """`nearest` of a level's `fields`, or where none is very like `name`, the dotted options `elsewhere` whose last part is; of a
    section that there is not, those that are like the keys of its `value`."""
    if not difflib.get_close_matches(name, fields, cutoff=NEAR_ELSEWHERE):
        by_last: dict[str, list[str]] = {}
        for dotted in elsewhere():
            by_last.setdefault(dotted.rpartition(".")[2], []).append(dotted)
        names = [str(key) for key in value] if isinstance(value, Mapping) else [name]
        close = [last for wanted in names for last in difflib.get_close_matches(wanted, by_last, n=1, cutoff=NEAR_ELSEWHERE)]
        if close:
            return _question([dotted for last in dict.fromkeys(close) for dotted in by_last[last]][:MOST_SHOWN])
    return nearest(name, fields)


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The option names of the model found by following `path` from `model`; a step into a dict of models takes any key."""
    annotation: Any = model
    for part in path:
        if typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and part in annotation.model_fields:
            annotation = annotation.model_fields[part].annotation
        else:
            break
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
