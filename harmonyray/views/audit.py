"""The audit of a step's views: whether rewordings keep the question's numbers, copy its words and have their sections, and
whether a view answers and agrees with the first. Pure: what was read in, figures and verdicts out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harmonyray.config_sections import AuditConfig
from harmonyray.types import AnswerGroup, FloatArray
from harmonyray.views.strategies import strategy_shares

EPS = 1e-9  # a mean that is off a limit by rounding alone is at the limit


@dataclass(frozen=True, slots=True)
class Audit:
    """What a step's audit found. `metrics` are named audit/{view}/...; `degenerate` bool[V]; `reasons` [V] say which figure
    is beyond which limit, "" for a view that is fine; `weights` float[V] multiply the views' weights in the vote."""

    metrics: Mapping[str, float]
    degenerate: tuple[bool, ...]
    reasons: tuple[str, ...]
    weights: FloatArray


def audit_views(groups: Sequence[AnswerGroup], views: Sequence[str], audit: AuditConfig) -> Audit:
    """The audit of one step. `groups` [P], views [V] are names in the run's order.

    Every metric is a share in [0, 1]; one without anything to average is left out. Of every view:

    - audit/{view}/answered: samples with an answer
    - audit/{view}/agreement (not of the first view): the mean over problems of the probability that a random sample of this
      view and one of the first view give the same answer; samples without an answer agree with none
    - audit/{view}/degenerate: 1 if a figure is beyond its limit in `audit`, else 0

    Of a view that rewords (a response holds a rewording, or misses one):

    - audit/{view}/format_compliance: required sections that are there, over all responses
    - audit/{view}/copied: 5-grams of a rewording that are copied, mean over rewordings
    - audit/{view}/numbers_kept: the question's distinct numbers that a rewording states too, mean over the rewordings of
      questions that state numbers
    - audit/{view}/strategy/{name}: responses that name this strategy, among those that name one

    Weights are `audit.weight` for degenerate views if `audit.action` is "down_weight", and 1 otherwise; also 1 for all if
    all are degenerate, as a vote knows proportions only.
    """
    metrics: dict[str, float] = {}
    reasons = []
    for v, name in enumerate(views):
        figures = _vote_figures(groups, v) | _rewording_figures(groups, v)
        reasons.append("; ".join(_complaints(figures, audit)))
        figures["degenerate"] = float(bool(reasons[v]))
        metrics |= {f"audit/{name}/{key}": value for key, value in figures.items()}
    degenerate = tuple(bool(reason) for reason in reasons)
    return Audit(metrics, degenerate, tuple(reasons), _weights(degenerate, audit))


def _vote_figures(groups: Sequence[AnswerGroup], v: int) -> dict[str, float]:
    """How often view v answers, and agrees with view 0."""
    figures = {}
    sampled = sum(int(group.num_samples[v]) for group in groups)
    counts = [group.counts() for group in groups]
    if sampled:
        figures["answered"] = sum(int(c[:, v].sum()) for c in counts) / sampled
    agreement = [
        float(c[:, 0] @ c[:, v]) / float(group.num_samples[0] * group.num_samples[v])
        for c, group in zip(counts, groups, strict=True)
        if group.num_samples[0] and group.num_samples[v]
    ]
    if v > 0 and agreement:
        figures["agreement"] = float(np.mean(agreement))
    return figures


def _rewording_figures(groups: Sequence[AnswerGroup], v: int) -> dict[str, float]:
    """What view v's rewordings are like; nothing for a view that does not reword."""
    responses = [response for group in groups if group.read for response in group.read[v]]
    if not any(response.reworded or response.missing > 0 for response in responses):
        return {}
    figures = {"format_compliance": 1.0 - float(np.mean([response.missing for response in responses]))}
    copied = [response.copied for response in responses if response.reworded]
    if copied:
        figures["copied"] = float(np.mean(copied))
    kept = [response.numbers_kept for response in responses if response.numbers_kept is not None]
    if kept:
        figures["numbers_kept"] = float(np.mean(kept))
    named = [response.strategy for response in responses if response.strategy is not None]
    return figures | {f"strategy/{name}": share for name, share in strategy_shares(named).items()}


def _complaints(figures: Mapping[str, float], audit: AuditConfig) -> Iterator[str]:
    """The figures that are beyond their limits."""
    lowest = {
        "answered": ("min_answered", audit.min_answered),
        "format_compliance": ("min_format_compliance", audit.min_format_compliance),
        "numbers_kept": ("min_numbers_kept", audit.min_numbers_kept),
    }
    for key, (option, limit) in lowest.items():
        if key in figures and figures[key] < limit - EPS:
            yield f"{key} {figures[key]:.4g} is below audit.{option} {limit:g}"
    if "copied" in figures and figures["copied"] > audit.max_copied + EPS:
        yield f"copied {figures['copied']:.4g} is above audit.max_copied {audit.max_copied:g}"


def _weights(degenerate: tuple[bool, ...], audit: AuditConfig) -> FloatArray:
    lowered = audit.action == "down_weight" and not all(degenerate)
    return np.array([audit.weight if lowered and bad else 1.0 for bad in degenerate], dtype=np.float64)
