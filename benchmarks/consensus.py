r"""Answers a second for extraction, clustering and selection, against naive pairwise math-verify on the same responses.

    python benchmarks/consensus.py ../shared/data/recorded/math_l5_models.jsonl --out benchmarks/results

The file has a row per question and view, `{"question_id", "view", "answers": [...]}`. Every answer becomes a response that
ends in `\boxed{answer}`, so that both sides extract. The naive side does what a script around math-verify does: parse both
responses of every pair of a question, verify, join what is equal. Both have the same seconds per comparison. The naive side
runs on every k-th question only (`--naive-questions` of them); ratios are per answer. A second baseline, told apart in
the table, parses each response once and compares each distinct text with one member of every class so far.

Growth: the file is repeated up to 10^6 answers, every copy with other numbers in it, so that no cache of the first helps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from consensus_differences import differences

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.extract import extract_answer
from harmonyray.selectors import select

LIMIT_S = 2
SIZES = (10**3, 10**4, 10**5, 10**6)
NO_ANSWER = "I could not finish this one."
Question = tuple[str, list[list[str]]]  # id, responses[v][n]


def read_questions(path: Path) -> list[tuple[str, list[list[str]]]]:
    """The recorded answers by question, views in file order."""
    questions: dict[str, list[list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        questions.setdefault(row["question_id"], []).append(row["answers"])
    return list(questions.items())


def response(answer: str) -> str:
    """A response that gives `answer`."""
    return f"Working it out step by step.\nThe final answer is \\boxed{{{answer}}}." if answer else NO_ANSWER


def as_responses(questions: Iterable[Question]) -> Iterator[Question]:
    for name, views in questions:
        yield name, [[response(a) for a in row] for row in views]


def repeated(questions: Sequence[Question], size: int) -> Iterator[Question]:
    """Questions until there are `size` answers; copy k adds k to every whole number of up to nine digits."""
    left, copy = size, 0
    while True:
        for name, views in questions:
            if left <= 0:
                return
            kept = []
            for row in views:
                kept.append(row[:left])
                left -= len(kept[-1])
            yield f"{name}#{copy}", [[shifted(a, copy) for a in row] for row in kept]
        copy += 1


def shifted(answer: str, by: int) -> str:
    return re.sub(r"(?<![\d.,])\d{1,9}(?![\d.,]*\d)", lambda m: str(int(m[0]) + by), answer) if by else answer


def ours(questions: Iterable[Question], equivalence: Equivalence) -> Iterator[list[int]]:
    """Cluster of every response, views one after the other, -1 for none; a label is selected too."""
    for name, views in questions:
        answers = [[extract_answer(text) for text in row] for row in views]
        ids, representatives, _ = cluster_answers(answers, equivalence)
        counts = [[int((row == c).sum()) for row in ids] for c in range(len(representatives))]
        select("harmonic", counts, [len(row) for row in views], key=name)
        yield [int(c) for row, texts in zip(ids, views, strict=True) for c in row[: len(texts)]]


class Naive:
    """math-verify as its README shows it, with its own timeouts."""

    def __init__(self) -> None:
        import logging

        from math_verify import parse, verify

        logging.disable(logging.CRITICAL)
        self._parse, self._verify = parse, verify
        self.num_timeouts = 0

    def parse(self, text: str) -> list[Any]:
        return list(self._parse(text, parsing_timeout=LIMIT_S))

    def equal(self, a: list[Any], b: list[Any]) -> bool:
        return bool(self._verify(a, b, timeout_seconds=LIMIT_S))

    def pairwise(self, question: Question) -> list[int]:
        """Every pair of responses, each parsed for the pair."""
        texts = [text for row in question[1] for text in row]
        found = [bool(self.parse(text)) for text in texts]
        root = list(range(len(texts)))
        for i, j in combinations(range(len(texts)), 2):
            if self.equal(self.parse(texts[i]), self.parse(texts[j])):
                kept, lost = sorted((root[i], root[j]))
                root = [kept if r == lost else r for r in root]
        return [r if ok else -1 for r, ok in zip(root, found, strict=True)]

    def greedy(self, question: Question) -> list[int]:
        """Each distinct response parsed once and compared with the first member of every class so far."""
        heads: list[list[Any]] = []
        number: dict[str, int] = {}
        for text in (text for row in question[1] for text in row):
            if text in number:
                continue
            parsed = self.parse(text)
            match = next((c for c, head in enumerate(heads) if parsed and self.equal(head, parsed)), len(heads))
            number[text] = match if parsed else -1
            if parsed and match == len(heads):
                heads.append(parsed)
        return [number[text] for row in question[1] for text in row]


def processor_s(equivalence: Equivalence | None) -> float:
    """Processor seconds so far, of this process and of the solver's: other work on the machine does not count."""
    own = time.process_time()
    if equivalence is None:
        return own
    fields = Path(f"/proc/{equivalence._worker.pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[], list[list[int]]], equivalence: Equivalence | None = None) -> tuple[list[list[int]], float, float]:
    """What `run` returns, seconds by the clock and processor seconds."""
    begun, used = time.perf_counter(), processor_s(equivalence)
    out = run()
    return out, time.perf_counter() - begun, processor_s(equivalence) - used


def growth(questions: Sequence[Question], sizes: Sequence[int]) -> list[dict[str, float]]:
    """Seconds and peak memory at each size, streamed, with fresh caches for each."""
    out = []
    for size in sizes:
        with Equivalence(limit_s=LIMIT_S) as equivalence:
            equivalence.check([("a+b", "b+a")])
            begun, used = time.perf_counter(), processor_s(equivalence)
            for _ in ours(as_responses(repeated(questions, size)), equivalence):
                pass
            seconds, cpu = time.perf_counter() - begun, processor_s(equivalence) - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        out.append({"answers": size, "seconds": seconds, "processor_s": cpu, "answers_per_s": size / cpu, "peak_mb": peak})
        print(f"{size:>9} answers  {seconds:8.2f} s  {cpu:8.2f} processor s  {size / cpu:9.0f} answers/s  peak {peak:4.0f} MB")
    return out


def compare(questions: list[Question], num_naive: int) -> dict[str, Any]:
    """Both baselines on the same subset of questions, ours on these and on all."""
    everything = list(as_responses(questions))
    chosen = everything[:: max(1, len(everything) // num_naive)][:num_naive] if num_naive else everything
    with Equivalence(limit_s=LIMIT_S) as equivalence:
        equivalence.check([("a+b", "b+a")])
        _, _, all_s = timed(lambda: list(ours(everything, equivalence)), equivalence)
    naive = Naive()
    naive.equal(naive.parse("$a+b$"), naive.parse("$b+a$"))
    with Equivalence(limit_s=LIMIT_S) as equivalence:
        equivalence.check([("a+b", "b+a")])
        mine, ours_wall, ours_s = timed(lambda: list(ours(chosen, equivalence)), equivalence)
        _, _, greedy_s = timed(lambda: [naive.greedy(question) for question in chosen])
        pairwise, naive_wall, naive_s = timed(lambda: [naive.pairwise(question) for question in chosen])
        found = differences(chosen, mine, pairwise, equivalence, naive)
    num_chosen = sum(len(row) for row in mine)
    num_all = sum(len(row) for _, views in everything for row in views)
    return {
        "num_questions": len(everything),
        "num_answers": num_all,
        "answers_per_s": num_all / all_s,
        "subset_questions": len(chosen),
        "subset_answers": num_chosen,
        "subset_answers_per_s": num_chosen / ours_s,
        "naive_answers_per_s": num_chosen / naive_s,
        "greedy_answers_per_s": num_chosen / greedy_s,
        "times_faster": naive_s / ours_s,
        "times_faster_by_the_clock": naive_wall / ours_wall,
        "times_faster_than_greedy": greedy_s / ours_s,
        "num_pairs": sum(len(row) * (len(row) - 1) // 2 for row in mine),
        "differences": found,
    }


def table(result: dict[str, Any]) -> str:
    c = result["comparison"]
    lines = [
        f"# Consensus on {result['file']}",
        "",
        f"{result['machine']}; one process and its solver; {LIMIT_S} s a comparison on every side. Processor seconds of both.",
        f"Command: `{result['command']}`",
        "",
        "| | answers per processor second | here, times faster |",
        "|---|---|---|",
        f"| extraction + clustering + selection, all {c['num_answers']} answers, cold caches | {c['answers_per_s']:.0f} | |",
        f"| the same, {c['subset_questions']} questions, {c['subset_answers']} answers | {c['subset_answers_per_s']:.0f} | 1 |",
        f"| naive pairwise math-verify, the same answers | {c['naive_answers_per_s']:.2f} | **{c['times_faster']:.0f}** |",
        f"| math-verify, distinct texts against class heads | {c['greedy_answers_per_s']:.1f} "
        f"| {c['times_faster_than_greedy']:.1f} |",
        "",
        f"By the clock, on a machine that others used too: {c['times_faster_by_the_clock']:.0f} times.",
        f"Pairs of answers: {c['num_pairs']}; distinct pairs that only one side joins: {len(c['differences'])}.",
    ]
    if c["differences"]:
        lines += ["", "| question | answer | answer | | why |", "|---|---|---|---|---|"]
        for d in c["differences"]:
            a, b = (f"`{text[:60].replace('|', '&#124;')}`" for text in (d["a"], d["b"]))
            lines.append(f"| {d['question']} | {a} | {b} | {d['what']} | {d['why']} |")
    lines += [
        "",
        "Growth (streamed; every copy has other numbers):",
        "",
        "| answers | seconds by the clock | processor seconds | answers per processor second | peak MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {g['answers']} | {g['seconds']:.2f} | {g['processor_s']:.2f} | {g['answers_per_s']:.0f} | {g['peak_mb']:.0f} |"
        for g in result["growth"]
    ]
    return "\n".join(lines) + "\n"


def command(arguments: Sequence[str]) -> str:
    """The command line with all its arguments; of an absolute path the last part alone."""
    shown = [Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments]
    return shlex.join(["python", "benchmarks/consensus.py", *shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--naive-questions", type=int, default=12, help="questions for the naive side (0: all; default: 12)")
    parser.add_argument("--max-answers", type=int, default=SIZES[-1], help="the largest size of the growth table")
    parser.add_argument("--out", type=Path, help="folder for consensus-<file>.md and .json")
    args = parser.parse_args()
    questions = read_questions(args.file)
    sizes = [size for size in SIZES if size <= args.max_answers]
    result = {
        "file": args.file.name,
        "machine": f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores (shared)",
        "command": command(sys.argv[1:]),
        "growth": growth(questions, sizes),
        "comparison": compare(questions, args.naive_questions),
    }
    print(table(result))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"consensus-{args.file.stem}.md").write_text(table(result), encoding="utf-8")
        (args.out / f"consensus-{args.file.stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**result, "comparison": {**result["comparison"], "differences": len(result["comparison"]["differences"])}}))


if __name__ == "__main__":
    main()
