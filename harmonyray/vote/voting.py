"""`harmonyray vote`: recorded answers in, pseudo-labels out, under one selector or several. No model, no torch, no ray.

Problems stream through in chunks. Only a selector that learns from all votes before it judges any (`reliability`, and so
"all") makes the verb hold the counts of every problem of a file. A run is replayed step by step, as it was trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray import registry
from harmonyray.answers.equivalence import Equivalence
from harmonyray.ballots import Ballot, file_ballots, run_ballots
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.problems.naming import named_source
from harmonyray.protocols import Selector
from harmonyray.records import STREAM, BadRows, RecordWriter, check_folder, check_out, chunks, no_rows
from harmonyray.records.columns import BOOL, FLOAT, TEXT
from harmonyray.selectors.applying import fit_and_select, learns
from harmonyray.selectors.votes import Majority
from harmonyray.types import Consensus
from harmonyray.vote.candidates import ALL, DEFAULT, Candidate, make_candidates

PICTURES = (".png", ".svg", ".pdf")
_CHUNK = 256
_KINDS = {"label": TEXT, "scores": ("map", TEXT, FLOAT), "margin": FLOAT, "tie": BOOL}  # of Parquet's columns


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """`source`: a file, `-`, or a run's directory. `selectors`: names (also several in one, with commas) or "all", with the
    `options` of an only one. `out`: where the labels go (`-`: standard output). `view`: whose label counts where views are
    judged apart (None: the first). `problems`: a source of gold answers, by id, which go before those of the rows. `extract`:
    the kind of answer to find in whole responses (None: they are extracted)."""

    source: str
    selectors: Sequence[str] = (DEFAULT,)
    options: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    plot: Path | None = None
    view: str | None = None
    problems: str | None = None
    extract: str | None = None
    skip_bad: bool = False

    @property
    def compares(self) -> bool:
        """Whether there may be several selectors, so that rows name theirs."""
        return len(self.selectors) > 1 or any("," in item or item == ALL for item in self.selectors)


def run_vote(request: VoteRequest) -> dict[str, Any]:
    """Votes on every problem and returns the JSON object of the contract.

    With several selectors, `selectors` has the figures of each, and the top level those of the first one (of "all": harmonic).
    Raises UserError for an input, option or output that cannot be used, GraderError if the solver cannot be kept alive.
    """
    begun = time.perf_counter()
    make_candidates(request.selectors, request.options, None)
    _check_outputs(request)
    gold = _gold(request.problems)
    bad = BadRows(request.skip_bad)
    totals = {"num_problems": 0, "num_gold": 0, "num_timeouts": 0} | ({"num_in_problems": 0} if request.problems else {})
    with Equivalence() as equivalence, RecordWriter(request.out, _KINDS) as writer:
        ballots = _ballots(request, equivalence, bad)
        first = next(ballots, None)
        if first is None:
            raise no_rows(request.source, bad)
        _check_view(request.view, first.views)
        candidates = make_candidates(request.selectors, request.options, first.views)
        for chunk in _chunks(chain([first], ballots), whole=any(learns(c.selector) for c in candidates)):
            if request.problems:
                totals["num_in_problems"] += sum(str(b.id) in gold for b in chunk)
            golds = [gold.get(str(b.id), b.gold) for b in chunk]
            totals["num_problems"] += len(chunk)
            totals["num_gold"] += sum(g is not None for g in golds)
            totals["num_timeouts"] += sum(b.num_timeouts for b in chunk)
            totals["num_timeouts"] += _judge(candidates, chunk, golds, request, equivalence, writer)
        _check_found(request, gold, totals, first)
    summary = _summary(request, candidates, totals, bad)
    if request.plot is not None:
        from harmonyray.vote_report import plot_vote

        plot_vote(summary, request.plot)
    return {**summary, "wall_seconds": time.perf_counter() - begun}


def _judge(
    candidates: Sequence[Candidate],
    chunk: Sequence[Ballot],
    golds: Sequence[str | None],
    request: VoteRequest,
    equivalence: Equivalence,
    writer: RecordWriter,
) -> int:
    """Lets every selector judge a chunk, counts and writes; gives the comparisons with gold answers that were given up."""
    chosen = {c.name: _select(c.selector, chunk) for c in candidates}
    reference = _labels(chosen.get("majority") or _select(Majority(Majority.Options()), chunk), chunk, request)
    labels = {c.name: _labels(chosen[c.name], chunk, request) for c in candidates}
    right, num_timeouts = _right(labels, chunk, golds, equivalence)
    for c in candidates:
        c.num_ties += sum(consensus.tie for consensus in chosen[c.name])
        _tally(c, labels[c.name], reference, right[c.name])
        writer.write(_rows(c.name, chosen[c.name], labels[c.name], chunk, request))
    return num_timeouts


def _chunks(ballots: Iterator[Ballot], whole: bool) -> Iterator[list[Ballot]]:
    """Ballots to be judged together: a step of a run; of a file some, or all (`whole`) for a selector that learns."""
    for step, group in groupby(ballots, key=lambda ballot: ballot.step):
        if step is not None or whole:
            yield list(group)
        else:
            yield from chunks(group, _CHUNK)


def _check_outputs(request: VoteRequest) -> None:
    check_out(request.out, request.source)
    if request.plot is not None:
        if request.plot.suffix.lower() not in PICTURES:
            raise ConfigError(f"--plot '{request.plot}': expected a name ending in {', '.join(PICTURES)}")
        check_folder("--plot", request.plot)


def _check_view(view: str | None, views: Sequence[str]) -> None:
    if view is not None and view not in views:
        raise ConfigError(f"--view {view!r}: {registry.nearest(view, list(views))}")


def _gold(problems: str | None) -> dict[str, str]:
    """Gold answers by problem id, from a problem file, a source's type or a benchmark. Raises ConfigError, ProblemError."""
    if problems is None:
        return {}
    name, options = named_source(problems)
    source = registry.resolve("problems", name)(registry.make_options("problems", name, "", options))
    gold = {key: answer.text for key, answer in source.gold().items()}
    if not gold:
        raise ProblemError(f"--problems {problems!r} has no gold answers; expected a column 'answer'")
    return gold


def _check_found(request: VoteRequest, gold: Mapping[str, str], totals: Mapping[str, int], first: Ballot) -> None:
    if request.problems is not None and not totals["num_in_problems"]:
        raise ProblemError(
            f"--problems {request.problems!r}: 0 of {totals['num_problems']} ids found; ids here are like {str(first.id)!r}, "
            f"there like {next(iter(gold))!r}: expected the same ids in both"
        )


def _ballots(request: VoteRequest, equivalence: Equivalence, bad: BadRows) -> Iterator[Ballot]:
    if request.source != STREAM and Path(request.source).expanduser().is_dir():
        if request.extract is not None:
            raise ConfigError("--extract is for files of responses; a run's answers are extracted already: leave it out")
        return run_ballots(Path(request.source).expanduser())
    return file_ballots(request.source, equivalence, bad, request.extract)


def _select(selector: Selector, chunk: Sequence[Ballot]) -> list[Consensus]:
    """Selectors count steps from 0, runs from 1."""
    num_samples = np.array([ballot.num_samples for ballot in chunk])
    keys = [str(ballot.id) for ballot in chunk]
    return fit_and_select(
        selector, [ballot.counts for ballot in chunk], num_samples, step=max((chunk[0].step or 1) - 1, 0), keys=keys
    )


def _view(ballot: Ballot, request: VoteRequest) -> int:
    return 0 if request.view is None else ballot.views.index(request.view)


def _labels(chosen: Sequence[Consensus], chunk: Sequence[Ballot], request: VoteRequest) -> list[int | None]:
    return [consensus.label[_view(ballot, request)] for consensus, ballot in zip(chosen, chunk, strict=True)]


def _right(
    labels: Mapping[str, Sequence[int | None]], chunk: Sequence[Ballot], golds: Sequence[str | None], equivalence: Equivalence
) -> tuple[dict[str, list[bool]], int]:
    """Whether each label equals its gold answer, and how many comparisons were given up; each pair is compared once."""
    texts: dict[tuple[str, str], bool] = {}
    keys: dict[str, list[tuple[str, str] | None]] = {}
    for name, row in labels.items():
        keys[name] = [
            None if label is None or gold is None else (ballot.representatives[label], gold)
            for label, ballot, gold in zip(row, chunk, golds, strict=True)
        ]
        texts.update((key, False) for key in keys[name] if key is not None)
    verdicts = equivalence.check(list(texts))
    texts = {pair: verdict.equal for pair, verdict in zip(texts, verdicts, strict=True)}
    right = {name: [key is not None and texts[key] for key in row] for name, row in keys.items()}
    return right, sum(verdict.status == "timeout" for verdict in verdicts)


def _tally(candidate: Candidate, labels: Sequence[int | None], reference: Sequence[int | None], right: Sequence[bool]) -> None:
    candidate.num_abstained += sum(label is None for label in labels)
    candidate.num_right += sum(right)
    both = [(a, b) for a, b in zip(labels, reference, strict=True) if a is not None and b is not None]
    candidate.num_different += sum(a != b for a, b in both)


def _rows(
    name: str, chosen: Sequence[Consensus], labels: Sequence[int | None], chunk: Sequence[Ballot], request: VoteRequest
) -> list[dict[str, Any]]:
    out = []
    for ballot, consensus, label in zip(chunk, chosen, labels, strict=True):
        scores = consensus.scores if consensus.scores.ndim == 1 else consensus.scores[:, _view(ballot, request)]
        row: dict[str, Any] = {
            "id": ballot.id,
            "label": None if label is None else ballot.representatives[label],
            "scores": dict(zip(ballot.representatives, scores.tolist(), strict=True)),
            "margin": consensus.margin,
            "tie": consensus.tie,
        }
        if ballot.step is not None:
            row["step"] = ballot.step
        out.append({**row, "selector": name} if request.compares else row)
    return out


def _summary(request: VoteRequest, candidates: Sequence[Candidate], totals: Mapping[str, int], bad: BadRows) -> dict[str, Any]:
    problems, num_gold = totals["num_problems"], totals["num_gold"]
    table: dict[str, dict[str, Any]] = {}
    for c in candidates:
        table[c.name] = {
            "num_abstained": c.num_abstained,
            "num_ties": c.num_ties,
            "coverage": (problems - c.num_abstained) / problems,
            "disagreement": c.num_different / problems,
        } | ({"accuracy": c.num_right / num_gold} if num_gold else {})
    skipped = {"num_skipped": bad.num_skipped, "skipped": sorted(bad.skipped)}
    out = {**totals, **skipped, "selector": candidates[0].name, **table[candidates[0].name]}
    return {**out, "selectors": table} if request.compares else out
