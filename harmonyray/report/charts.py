"""What the curves of a report are: which figures of a run, or of several, belong in one picture. How they are drawn is `svg` and
`pictures`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonyray.clock import PHASES
from harmonyray.report.reading import RunRecord

SELECTORS = ("harmonic", "majority", "arithmetic", "mutual_information", "reliability", "self")  # as many as one picture bears
PALETTE = 8
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: `points` [(step, value)], `band` [(step, low, high)] around some of them or nothing. `color` of PALETTE; `dash` 0
    is a full line."""

    name: str
    points: tuple[tuple[float, float], ...]
    color: int = 0
    dash: int = 0
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture: lines over the steps. `key` names its file; `share` says that values are shares, from 0 to 1."""

    key: str
    title: str
    note: str
    series: tuple[Series, ...]
    share: bool = False


def run_charts(run: RunRecord) -> list[Chart]:
    """Every curve of one run that has something to show."""
    rows, views = run.rows, run.views
    charts = [*_accuracy(run), *_labels(rows), *_selectors(rows)]
    by_view = (
        ("reward", "Reward", "Mean over a view's samples.", "reward/{}/mean", False),
        ("length", "Response length", "Mean tokens of a response.", "rollout/{}/length", False),
        ("answered", "Responses with an answer", "Share of a view's samples.", "rollout/{}/answered", True),
    )
    charts += [Chart(k, t, n, _lines(rows, {v: key.format(v) for v in views}), share) for k, t, n, key, share in by_view]
    learning = {"KL to the first model": "train/kl", "token entropy": "train/entropy"}
    charts.append(Chart("policy", "The policy", "Nats a token, as the learner estimates them.", _lines(rows, learning)))
    charts.append(Chart("gradient", "Gradient norm", "Before clipping.", _lines(rows, {"gradient norm": "train/grad_norm"})))
    seconds = {name: f"time/{name}_s" for name in PHASES}
    charts.append(Chart("time", "Time per phase", "Seconds of each step.", _lines(rows, seconds)))
    return [chart for chart in charts if chart.series]


def _accuracy(run: RunRecord) -> Iterator[Chart]:
    rows = [{"step": 0, **run.before}, *run.rows]
    for part, of in (("eval", ""), ("holdout", ", held-out problems")):
        means = {view: f"{part}/{view}/avg_at_k" for view in run.views}
        title, note = (
            f"Accuracy per view{of}",
            "Mean over problems and samples (avg@k); the band is the 95 % interval over problems.",
        )
        yield Chart(f"accuracy_{part}", title, note, _lines(rows, means, band=True), share=True)
        votes = {"majority@k": f"{part}/majority_at_k", "harmonic@k": f"{part}/harmonic_at_k"}
        votes |= {f"{view}, greedy": f"{part}/{view}/greedy" for view in run.views}
        note = "Labels voted over the samples of all views, and greedy answers."
        yield Chart(f"votes_{part}", f"Accuracy of votes{of}", note, _lines(rows, votes), share=True)


def _labels(rows: Rows) -> Iterator[Chart]:
    labels = {
        "pseudo-labels right": "consensus/label_accuracy",
        "coverage": "consensus/coverage",
        "any sample right": "consensus/upper_bound",
        "first view's majority right": "consensus/majority_label_accuracy",
    }
    note = "Coverage: problems with a label. Right: of these, by the gold answers, which only the evaluation reads."
    yield Chart("labels", "Pseudo-labels", note, _lines(rows, labels), share=True)
    terms = {"self-consistency": "consensus/self_consistency", "view-invariance": "consensus/view_invariance"}
    note = "The label's mean frequency over the views, and what its spread takes away; harmonic is the one minus the other."
    yield Chart("terms", "The two terms of the score", note, _lines(rows, terms))
    spread = {"answer entropy": "consensus/entropy", "between views (JS)": "consensus/js", "margin": "consensus/margin"}
    note = "Entropy of the pooled answers and the views' divergence in nats; the label's lead in units of its score."
    yield Chart("spread", "Agreement of the answers", note, _lines(rows, spread))


def _selectors(rows: Rows) -> Iterator[Chart]:
    right = {name: f"selectors/{name}/label_accuracy" for name in SELECTORS}
    yield Chart("selectors_right", "Labels right, by selector", "What each would have scored.", _lines(rows, right), share=True)
    differ = {name: f"selectors/{name}/disagreement" for name in SELECTORS}
    note = "Share of problems to which a selector gives another label than the one used."
    yield Chart("selectors_differ", "Other labels than those used", note, _lines(rows, differ), share=True)


def _lines(rows: Rows, names: Mapping[str, str], band: bool = False) -> tuple[Series, ...]:
    """A line for each metric that any row has, by its shown name."""
    out = []
    for place, (name, key) in enumerate(names.items()):
        found = [row for row in rows if key in row]
        if found:
            around = [(r["step"], r[f"{key}_low"], r[f"{key}_high"]) for r in found if band and f"{key}_low" in r]
            points = tuple((r["step"], r[key]) for r in found)
            out.append(Series(name, points, place % PALETTE, place // PALETTE, tuple(around)))
    return tuple(out)


COMPARED = (
    ("accuracy", "Accuracy", "First view, mean over problems and samples (avg@k).", "eval/{}/avg_at_k", True),
    ("labels", "Pseudo-labels right", "Of the problems with a label.", "consensus/label_accuracy", True),
    ("coverage", "Coverage", "Share of problems with a label.", "consensus/coverage", True),
    ("consistency", "Self-consistency", "The label's mean frequency over the views.", "consensus/self_consistency", False),
    ("invariance", "View-invariance", "What the spread over the views takes away.", "consensus/view_invariance", False),
    ("entropy", "Answer entropy", "Of the pooled answers, in nats.", "consensus/entropy", False),
    ("reward", "Reward", "First view, mean over samples.", "reward/{}/mean", False),
    ("step_time", "Time per step", "Seconds.", "time/step_s", False),
)


def compared_charts(runs: Sequence[RunRecord], labels: Sequence[str]) -> list[Chart]:
    """The same figure of several runs in one picture. Runs of one label have one colour; `labels` [runs]."""
    kinds = list(dict.fromkeys(labels))
    charts = []
    for key, title, note, metric, share in COMPARED:
        series = []
        for run, label in zip(runs, labels, strict=True):
            place, name = kinds.index(label), metric.format(run.views[0])
            points = tuple((r["step"], r[name]) for r in [{"step": 0, **run.before}, *run.rows] if name in r)
            if points:
                series.append(Series(label, points, place % PALETTE, place // PALETTE))
        if series:
            charts.append(Chart(key, title, note, tuple(series), share))
    return charts
