"""What a step was like, in numbers: what was sampled and read, and what was voted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from harmonyray.algos.diagnostics import consensus_metrics
from harmonyray.evaluate import Evaluator
from harmonyray.ledger import StepLedger
from harmonyray.protocols import Ask
from harmonyray.types import Collected, Judgement


def step_metrics(
    evaluator: Evaluator,
    asks: Sequence[Ask],
    collected: Collected,
    judgements: Sequence[Judgement],
    ledger: StepLedger,
) -> dict[str, float]:
    """What a step's rollouts and judgements were like: `consensus/*`, `selectors/*`, `reward/{view}/*`, `rollout/*`."""
    groups = [j.group for j in judgements]
    row = consensus_metrics([j.consensus for j in judgements], groups) | ledger.metrics()
    row |= evaluator.label_metrics(judgements, ledger.marks, ledger.verdicts)
    row["consensus/timeouts"] = float(sum(g.num_timeouts for g in groups))
    for key in sorted({key for j in judgements for key in j.metrics}):
        row[key] = float(np.mean([j.metrics[key] for j in judgements if key in j.metrics]))
    for v, view in enumerate(ask.view for ask in asks):
        of_view = [problem.groups[v].figures for problem in collected.rollouts]
        row[f"reward/{view.name}/mean"] = float(np.nanmean([j.rewards[v] for j in judgements]))
        row[f"rollout/{view.name}/length"] = float(np.mean(np.concatenate([f.lengths for f in of_view])))
        row[f"rollout/{view.name}/truncated"] = float(np.mean(np.concatenate([f.truncated for f in of_view])))
        row[f"rollout/{view.name}/mixed"] = float(np.mean(np.concatenate([f.mixed for f in of_view])))
        drafts = np.concatenate([f.draft_lengths for f in of_view])
        if len(drafts):
            row[f"rollout/{view.name}/draft_length"] = float(np.mean(drafts))
            row[f"rollout/{view.name}/draft_too_long"] = float(np.mean(np.concatenate([f.drafts_too_long for f in of_view])))
        row[f"rollout/{view.name}/answered"] = float(np.mean([g.cluster_ids[v, : g.num_samples[v]] >= 0 for g in groups]))
    return row | _counts(collected, asks)


def _counts(collected: Collected, asks: Sequence[Ask]) -> dict[str, float]:
    """`rollout/complete_share` of the problems asked, and of each view `rollout/{view}/retried` and `.../failed`: groups that
    were sampled again, and those given up."""
    num_complete, num_incomplete = len(collected.groups), len({f.problem_id for f in collected.failed if f.last})
    retried = Counter(f.view for f in collected.failed if not f.last)
    given_up = Counter(f.view for f in collected.failed if f.last)
    row = {"rollout/complete_share": num_complete / (num_complete + num_incomplete)}
    for name in (ask.view.name for ask in asks):
        row |= {f"rollout/{name}/retried": float(retried[name]), f"rollout/{name}/failed": float(given_up[name])}
    return row
