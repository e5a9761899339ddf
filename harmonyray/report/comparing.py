"""What tells several runs apart: the settings in which their configurations differ, and the figures of each in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonyray.report.reading import RunRecord

NO_SETTINGS = {"name", "seed", "placement", "runtime", "tracking"}  # these change where or how often, not what
LAST_STEPS = 8
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run among others: figures in [0, 1], None for what it has not, or what is not known. `link` leads to its own report."""

    name: str
    link: str
    label: str
    seed: Any
    steps: int
    before: float | None
    last: float | None
    peak: float | None
    labels_right: float | None
    coverage: float | None
    guard: str
    uses_gold: bool | None


def name_runs(runs: Sequence[RunRecord]) -> list[str]:
    """A label for each: the settings in which they differ, `method=majority_vote, lr=0.001`; runs that differ in their seed only
    have the same."""
    labels = _labels([run.config for run in runs])
    return [label or str(run.config["name"]) for label, run in zip(labels, runs, strict=True)]


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between all of them, and then between those that this leaves the same (of one type, say); else empty."""
    found = list(_differences(configs, ""))
    tails = [key.rpartition(".")[2] for key, _ in found]
    short = [tail if tails.count(tail) == 1 else key for (key, _), tail in zip(found, tails, strict=True)]
    out = [", ".join(f"{key}={values[i]}" for key, (_, values) in zip(short, found, strict=True)) for i in range(len(configs))]
    alike: dict[str, list[int]] = {}
    for i, label in enumerate(out):
        alike.setdefault(label, []).append(i)
    for places in alike.values() if len(alike) > 1 else ():
        for i, more in zip(places, _labels([configs[i] for i in places]), strict=True):
            out[i] += f", {more}" if more else ""
    return out


def _differences(parts: Sequence[Mapping[str, Any]], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """The keys that differ with every run's value. Of plug-ins of different types the types, of different views their names."""
    for key in dict.fromkeys(key for part in parts for key in part):
        name, values = f"{prefix}{key}", [part.get(key, ABSENT) for part in parts]
        if name in NO_SETTINGS or all(value == values[0] for value in values):
            continue
        if not all(isinstance(value, Mapping) for value in values):
            yield name, values
        elif len({value.get("type") for value in values}) > 1:
            yield name, [value.get("type") for value in values]
        elif name == "views" and len({tuple(value) for value in values}) > 1:
            yield name, ["+".join(value) for value in values]
        else:
            yield from _differences(values, f"{name}.")


def run_line(run: RunRecord, name: str, link: str, label: str) -> RunLine:
    """The figures of one run: its first view's accuracy before, last and at best; labels over the last LAST_STEPS steps."""
    key = f"eval/{run.views[0]}/avg_at_k"
    measured = [row[key] for row in run.rows if key in row]
    return RunLine(
        name=name,
        link=link,
        label=label,
        seed=run.config.get("seed", ABSENT),
        steps=int(run.rows[-1]["step"]),
        before=run.before.get(key),
        last=measured[-1] if measured else None,
        peak=max(measured) if measured else None,
        labels_right=mean_of(run.rows[-LAST_STEPS:], "consensus/label_accuracy"),
        coverage=mean_of(run.rows[-LAST_STEPS:], "consensus/coverage"),
        guard=", ".join(fired_signs(run)),
        uses_gold=run.uses_gold,
    )


def mean_of(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Over the rows that have it; None if none has."""
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else None


def fired_signs(run: RunRecord) -> dict[str, list[int]]:
    """The collapse guard's signs that fired, with their steps."""
    out: dict[str, list[int]] = {}
    for row in run.rows:
        for key, value in row.items():
            if key.startswith("guard/") and key not in ("guard/fired", "guard/rollbacks") and value:
                out.setdefault(key.removeprefix("guard/"), []).append(int(row["step"]))
    return out
