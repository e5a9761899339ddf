"""`harmonyray vote`: recorded answers in, pseudo-labels out, under one selector or all of them. No model, no torch, no ray.

Problems stream through in chunks. Only a selector that learns from all votes before it judges any (`reliability`, and so
"all") makes the verb hold the counts of every problem of a file. A run is replayed step by step, as it was trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harmonyray import registry
from harmonyray.answers.equivalence import Equivalence
from harmonyray.ballots import Ballot, file_ballots, run_ballots
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.protocols import Selector
from harmonyray.records import STREAM, BadRows, RecordWriter, check_folder, check_out, chunks, no_rows
from harmonyray.selectors import default_selectors
from harmonyray.selectors.applying import fit_and_select, learns
from harmonyray.selectors.votes import Majority
from harmonyray.types import Consensus

ALL = "all"
DEFAULT = "harmonic"
PICTURES = (".png", ".svg", ".pdf")
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """`source`: a file, `-`, or a run's directory. `selector`: a name or "all", with its `options`. `out`: where the labels
    go (`-`: standard output). `view`: whose label counts where views are judged apart (None: the first). `problems`: a
    source of gold answers, by id. `extract`: the kind of answer to find in whole responses (None: they are extracted)."""

    source: str
    selector: str = DEFAULT
    options: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    plot: Path | None = None
    view: str | None = None
    problems: str | None = None
    extract: str | None = None
    skip_bad: bool = False


@dataclass(slots=True)
class Candidate:
    """A selector and how it has done so far."""

    name: str
    selector: Selector
    num_abstained: int = 0
    num_different: int = 0
    num_right: int = 0


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """`["lam=2", "of.type=harmonic"]` as nested options. Raises ConfigError for an item that cannot be read."""
    for item in items:
        if "=" not in item:
            raise ConfigError(f"-o {item!r} is not of the form key=value, e.g. -o lam=1.5 or -o weights=[0.6,0.4]")
    try:
        loaded = OmegaConf.to_container(OmegaConf.from_dotlist(list(items)), resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as e:
        raise ConfigError(f"-o {' -o '.join(items)} cannot be read: {e}") from e
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def run_vote(request: VoteRequest) -> dict[str, Any]:
    """Votes on every problem and returns the JSON object of the contract.

    With "all", `selectors` has the figures of each, and the top level those of the default one. Raises UserError for an
    input, option or output that cannot be used, GraderError if the solver cannot be kept alive.
    """
    begun = time.perf_counter()
    candidates = _candidates(request)
    _check_outputs(request)
    gold = _gold(request.problems)
    bad = BadRows(request.skip_bad)
    majority = Majority(Majority.Options())
    totals = {"num_problems": 0, "num_gold": 0, "num_timeouts": 0}
    with Equivalence() as equivalence, RecordWriter(request.out, _schema) as writer:
        ballots = _ballots(request, equivalence, bad)
        for chunk in _chunks(ballots, whole=any(learns(c.selector) for c in candidates)):
            chosen = {c.name: _select(c.selector, chunk) for c in candidates}
            reference = _labels(chosen.get("majority") or _select(majority, chunk), chunk, request)
            golds = [gold.get(str(b.id), b.gold) for b in chunk]
            totals["num_problems"] += len(chunk)
            totals["num_gold"] += sum(g is not None for g in golds)
            totals["num_timeouts"] += sum(b.num_timeouts for b in chunk)
            labels = {c.name: _labels(chosen[c.name], chunk, request) for c in candidates}
            right, timeouts = _right(labels, chunk, golds, equivalence)
            totals["num_timeouts"] += timeouts
            for c in candidates:
                _tally(c, labels[c.name], reference, right[c.name])
                writer.write(_rows(c.name, chosen[c.name], labels[c.name], chunk, request))
        if not totals["num_problems"]:
            no_rows(request.source, bad)
    summary = _summary(request, candidates, totals, bad.num_skipped)
    if request.plot is not None:
        from harmonyray.vote_report import plot_vote

        plot_vote(summary, request.plot)
    return {**summary, "wall_seconds": time.perf_counter() - begun}


def _chunks(ballots: Iterator[Ballot], whole: bool) -> Iterator[list[Ballot]]:
    """Ballots to be judged together: a step of a run; of a file some, or all (`whole`) for a selector that learns."""
    for step, group in groupby(ballots, key=lambda ballot: ballot.step):
        if step is not None or whole:
            yield list(group)
        else:
            yield from chunks(group, _CHUNK)


def _candidates(request: VoteRequest) -> list[Candidate]:
    if request.selector != ALL:
        options = registry.make_options("selectors", request.selector, "", request.options)
        return [Candidate(request.selector, registry.resolve("selectors", request.selector)(options))]
    if request.options:
        raise ConfigError(f"-o {next(iter(request.options))!r} belongs to one selector: name it with --selector, not 'all'")
    return [Candidate(name, selector) for name, selector in default_selectors().items()]


def _check_outputs(request: VoteRequest) -> None:
    check_out(request.out, request.source)
    if request.plot is not None:
        if request.plot.suffix.lower() not in PICTURES:
            raise ConfigError(f"--plot '{request.plot}': expected a name ending in {', '.join(PICTURES)}")
        check_folder("--plot", request.plot)


def _gold(problems: str | None) -> dict[str, str]:
    """Gold answers by problem id, from a problem file or a problem source's name. Raises ProblemError."""
    if problems is None:
        return {}
    name, options = (problems, {}) if problems in registry.BUILT_IN["problems"] else ("file", {"path": problems})
    source = registry.resolve("problems", name)(registry.make_options("problems", name, "", options))
    gold = {key: answer.text for key, answer in source.gold().items()}
    if not gold:
        raise ProblemError(f"--problems {problems!r} has no gold answers; expected a column 'answer'")
    return gold


def _ballots(request: VoteRequest, equivalence: Equivalence, bad: BadRows) -> Iterator[Ballot]:
    def check_view(views: Sequence[str]) -> None:
        if request.view is not None and request.view not in views:
            raise ConfigError(f"--view {request.view!r}: {registry.nearest(request.view, list(views))}")

    if request.source != STREAM and Path(request.source).expanduser().is_dir():
        if request.extract is not None:
            raise ConfigError("--extract is for files of responses; a run's answers are extracted already: leave it out")
        return run_ballots(Path(request.source).expanduser(), check_view)
    return file_ballots(request.source, equivalence, bad, request.extract, check_view)


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
        }
        if ballot.step is not None:
            row["step"] = ballot.step
        out.append({**row, "selector": name} if request.selector == ALL else row)
    return out


def _schema(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Parquet's columns: scores are a map from answer to score; ids are integers where all of the first rows' are."""
    import pyarrow as pa

    numbered = bool(rows) and all(isinstance(row["id"], int) for row in rows)
    fields = [("id", pa.int64() if numbered else pa.string()), ("label", pa.string())]
    fields += [("scores", pa.map_(pa.string(), pa.float64())), ("margin", pa.float64())]
    extra = {"step": pa.int64(), "selector": pa.string()}
    return pa.schema(fields + [(key, kind) for key, kind in extra.items() if rows and key in rows[0]])


def _summary(
    request: VoteRequest, candidates: Sequence[Candidate], totals: Mapping[str, int], num_skipped: int
) -> dict[str, Any]:
    problems, num_gold = totals["num_problems"], totals["num_gold"]
    table: dict[str, dict[str, Any]] = {}
    for c in candidates:
        table[c.name] = {
            "num_abstained": c.num_abstained,
            "coverage": (problems - c.num_abstained) / problems if problems else 0.0,
            "disagreement": c.num_different / problems if problems else 0.0,
        } | ({"accuracy": c.num_right / num_gold} if num_gold else {})
    named = DEFAULT if request.selector == ALL else request.selector
    out = {**totals, "num_skipped": num_skipped, "selector": named, **table[named]}
    return {**out, "selectors": table} if request.selector == ALL else out
