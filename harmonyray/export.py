"""A checkpoint's model as a plain Hugging Face directory with a model card and the run's configuration. Files are copied as
they are: no torch here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harmonyray.checkpoint import STATE_FILE, CheckpointStore, replace_directory
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.manifest import MANIFEST, read_manifest

CONFIG, MODEL = "config.yaml", "model"  # in a checkpoint
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What `harmonyray export` was asked for: `source` is a run directory or a checkpoint; `step` or `best` choose among a
    run's checkpoints, the newest without."""

    source: Path
    out: Path
    step: int | None = None
    best: bool = False


def run_export(request: ExportRequest) -> dict[str, Any]:
    """Writes the model directory and returns the JSON object of the verb: `out`, `checkpoint`, `step`, `policy_version`,
    `base_model`, and `files`, their sizes in bytes by name.

    Raises ConfigError for a source, a step or an `out` that cannot be, CheckpointError for a checkpoint that was altered.
    """
    out = request.out.expanduser().resolve()
    _check_out(out)
    checkpoint = _chosen(request)
    manifest = read_manifest(checkpoint)
    for needed in (CONFIG, STATE_FILE, f"{MODEL}/config.json"):
        if needed not in manifest["files"]:
            raise CheckpointError(
                f"checkpoint '{checkpoint}' holds no '{needed}': a learner has to leave its model in '{MODEL}/'"
            )
    config = yaml.safe_load((checkpoint / CONFIG).read_text())
    card = model_card(config, manifest, json.loads((checkpoint / STATE_FILE).read_text()))

    def write(directory: Path) -> None:
        shutil.copytree(checkpoint / MODEL, directory, dirs_exist_ok=True)
        (directory / CARD).write_text(card)
        shutil.copyfile(checkpoint / CONFIG, directory / CONFIG)  # so that `harmonyray eval` asks as the run did

    try:
        replace_directory(out, write)
    except OSError as e:
        raise ConfigError(f"--out: '{out}' cannot be written ({e}): give another directory") from e
    return {
        "out": str(out),
        "checkpoint": str(checkpoint.resolve()),
        "step": manifest["step"],
        "policy_version": manifest["policy_version"],
        "base_model": config["model"]["path"],
        "files": {p.relative_to(out).as_posix(): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()},
    }


def describe_export(summary: Mapping[str, Any]) -> str:
    """The summary for a person."""
    size = sum(summary["files"].values()) / 2**20
    return (
        f"step {summary['step']} of {summary['checkpoint']}\n-> {summary['out']}: {size:.1f} MiB, {', '.join(summary['files'])}"
    )


def model_card(config: Mapping[str, Any], manifest: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """A model card with what the checkpoint itself knows, and nothing else."""
    views = (f"{name} ({view['type']}, {view['num_samples']} samples)" for name, view in config["views"].items())
    facts = {
        "base model": config["model"]["path"],
        "steps": f"{manifest['step']} of {config['steps']}",
        "policy updates": manifest["policy_version"],
        "method": _inline(config["method"]),
        "views": ", ".join(views),
        "problems": config["problems"]["type"],
        "problems a step": config["rollout"]["problems_per_step"],
        "learner": _inline(config["learner"]),
        "seed": config["seed"],
    }
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
        f"# {config['name']}, step {manifest['step']}\n\n"
        f"A causal language model, trained with harmonyray.\n\n| | |\n|---|---|\n{rows}\n\n"
        f"## Evaluation\n\n{_evaluation(config, state)}\n"
    )


def _evaluation(config: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """The measures that have an interval, with it, after this step and before the first."""
    after, before = state["eval"], state["eval_before"]
    measures = [name for name in after if f"{name}_low" in after]
    if not measures:
        return "The run did not evaluate this step."
    said = f"By the run itself, k = {config['eval']['num_samples']}, on the problems that it adapts to (eval)"
    said += " and on those it is never trained on (holdout)" if config["problems"]["holdout"] else ""
    lines = [f"| {_cell(name)} | {_share(before, name)} | {_share(after, name)} |" for name in measures]
    return "\n".join(
        [f"{said}; in brackets 95 % intervals.\n", "| measure | before the first step | this step |", "|---|---|---|", *lines]
    )


def _share(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "not measured"
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f})"


def _inline(section: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(section), default_flow_style=True, sort_keys=False, width=10**6).strip()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: '{out}' is a file: give a new or empty directory")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out: '{out}' already exists and is not empty: give another directory, or empty it")


def _chosen(request: ExportRequest) -> Path:
    """The checkpoint that is meant; whether it is any good is not looked at."""
    source = request.source.expanduser()
    if not source.is_dir():
        raise ConfigError(f"no such directory: '{source}'; expected a run directory, or one of its checkpoints/step-...")
    if (source / MANIFEST).exists() or (source / STATE_FILE).exists():
        if request.step is not None or request.best:
            raise ConfigError(f"--step and --best choose among a run's checkpoints, and '{source}' is one: leave them out")
        return source
    if not (source / CONFIG).is_file():
        raise ConfigError(f"'{source}' is neither a run directory (it has no {CONFIG}) nor a checkpoint (no {MANIFEST})")
    metric = yaml.safe_load((source / CONFIG).read_text())["checkpoint"].get("best")
    store = CheckpointStore(source / "checkpoints", keep=1, best=metric)
    steps = store.steps()
    if not steps:
        raise ConfigError(f"'{source}' has no checkpoints yet: they are made every checkpoint.every steps, and at the end")
    if request.best:
        return store.path(_best_step(store, source))
    if request.step is not None and request.step not in steps:
        raise ConfigError(f"'{source}' has no checkpoint of step {request.step}; there are {', '.join(map(str, steps))}")
    return store.path(steps[-1] if request.step is None else request.step)


def _best_step(store: CheckpointStore, source: Path) -> int:
    if store.best is None:
        raise ConfigError(
            f"--best: the run '{source}' kept no best checkpoint (checkpoint.best is null): leave --best out for the newest, or "
            "use --step"
        )
    step = store.best_step()
    if step is None:
        raise ConfigError(f"--best: no checkpoint of '{source}' has an evaluation with {store.best} yet: use --step")
    return step
