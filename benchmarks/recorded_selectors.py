"""Pseudo-label accuracy of every selector on recorded answers: a table for people and one JSON object as the last line.

    python benchmarks/recorded_selectors.py ../shared/data/recorded [--sets mgsm_pairs quickstart_B ...] [--markdown]

A file's rows are {question_id, gold, view, answers[]}, '' where no answer was found. Answers are clustered as `harmonyray vote`
clusters them. Accuracy is the share of all problems with the right label: an abstention is not right. `mgsm_pairs` is the mean
over all pairs of languages, in which `reliability` is fitted on each pair's problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence
from harmonyray.selectors import default_selectors
from harmonyray.selectors.applying import fit_and_select
from harmonyray.types import IntArray

PAIRS = "mgsm_pairs"
FILES = {
    PAIRS: "mgsm_crosslingual",
    "gsm8k_reread": "gsm8k_reread",
    "gsm8k_models": "gsm8k_models",
    "math_l5_models": "math_l5_models",
    "mmlu_pro_models": "mmlu_pro_models",
    "quickstart_A": "quickstart_A",
    "quickstart_B": "quickstart_B",
}
ORACLE, FIRST = "(any sample right)", "(majority of the first view)"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Some problems in the same views: `counts` [P] of int[C, V], `num_samples` int[P, V], `right` [P] of bool[C]."""

    counts: list[IntArray]
    num_samples: IntArray
    right: list[list[bool]]


def read(path: Path) -> dict[str, tuple[str, dict[str, list[str]]]]:
    """Question id -> gold answer, view -> answers."""
    out: dict[str, tuple[str, dict[str, list[str]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        out.setdefault(row["question_id"], (str(row["gold"]), {}))[1][row["view"]] = [str(a) for a in row["answers"]]
    return out


def cluster(problems: Sequence[tuple[str, dict[str, list[str]]]], views: Sequence[str], equivalence: Equivalence) -> Recorded:
    """The problems that have all of `views`, clustered over them."""
    recorded = Recorded([], np.zeros((0, len(views)), dtype=np.int64), [])
    rows = []
    for gold, answers in problems:
        if not all(view in answers for view in views):
            continue
        ids, texts, _ = cluster_answers([[a or None for a in answers[view]] for view in views], equivalence)
        counts = np.array([[int((row == c).sum()) for row in ids] for c in range(len(texts))], dtype=np.int64)
        recorded.counts.append(counts.reshape(-1, len(views)))
        recorded.right.append([v.equal for v in equivalence.check([(gold, text) for text in texts])])
        rows.append([len(answers[view]) for view in views])
    return Recorded(recorded.counts, np.array(rows), recorded.right)


def scores(recorded: Recorded) -> dict[str, float]:
    """Selector -> share of problems with the right label (of the first view where views are judged apart)."""
    out = {}
    for name, selector in default_selectors().items():
        chosen = fit_and_select(selector, recorded.counts, recorded.num_samples)
        hits = [c.label[0] is not None and r[c.label[0]] for c, r in zip(chosen, recorded.right, strict=True)]
        out[name] = float(np.mean(hits))
        if name == "harmonic":
            out["(harmonic abstains)"] = float(np.mean([c.label[0] is None for c in chosen]))
            fallback = default_selectors()["majority"].select
            instead = [
                c.label[0] if c.label[0] is not None else fallback(n, s).label[0]
                for c, n, s in zip(chosen, recorded.counts, recorded.num_samples, strict=True)
            ]
            hits = [i is not None and r[i] for i, r in zip(instead, recorded.right, strict=True)]
            out["(harmonic, else majority)"] = float(np.mean(hits))
    out[FIRST] = out["self"]
    out[ORACLE] = float(np.mean([any(r) for r in recorded.right]))
    return out


def measure(name: str, folder: Path, equivalence: Equivalence) -> dict[str, Any]:
    """The mean accuracies of a set, with the number of its problems and views."""
    problems = list(read(folder / f"{FILES[name]}.jsonl").values())
    views = list(dict.fromkeys(view for _, answers in problems for view in answers))
    groups = list(itertools.combinations(views, 2)) if name == PAIRS else [tuple(views)]
    parts = [scores(cluster(problems, group, equivalence)) for group in groups]
    mean = {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}
    return {"num_problems": len(problems), "views": views, "num_groups": len(groups), "accuracy": mean}


def table(results: dict[str, dict[str, Any]], markdown: bool) -> str:
    """A row per selector; in Markdown the best selector of a column is bold."""
    names = list(next(iter(results.values()))["accuracy"])
    names = sorted((n for n in names if not n.startswith("(")), key=str) + [n for n in names if n.startswith("(")]
    header = ["selector", *results]
    body = []
    for name in names:
        row = [name]
        for result in results.values():
            accuracy = result["accuracy"]
            best = max(value for key, value in accuracy.items() if not key.startswith("("))
            text = f"{accuracy[name]:.4f}".removeprefix("0")
            row.append(f"**{text}**" if markdown and not name.startswith("(") and accuracy[name] >= best - 5e-5 else text)
        body.append(row)
    if markdown:
        lines = [header, ["---"] * len(header), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in [header, *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of recorded answers")
    parser.add_argument("--sets", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args()
    begun = time.perf_counter()
    with Equivalence() as equivalence:
        results = {name: measure(name, args.folder, equivalence) for name in args.sets}
    print(table(results, args.markdown))
    print(json.dumps({"sets": results, "wall_seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
