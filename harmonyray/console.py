"""What a person sees of a run: the header, its progress (a bar on a terminal, else lines), warnings, the table at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harmonyray.clock import PHASES
from harmonyray.config import Config
from harmonyray.guarding import Event, described
from harmonyray.result_table import result_table, steps_of

LITERAL: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # names and ids may hold brackets and colons
SHOWN_IDS = 5
LINE_S = 10.0  # least time between two lines of progress in a file
SUMMARY_TEXT = "summary.txt"


class Reporter:
    """Progress and the final table go to stdout, warnings to stderr."""

    def __init__(self, quiet: bool = False) -> None:
        """`quiet` leaves out everything but warnings (for `--json`)."""
        self.out = Console(quiet=quiet, soft_wrap=True, **LITERAL)
        self.err = Console(stderr=True, soft_wrap=True, **LITERAL)
        self.live = sys.stdout.isatty() and not quiet
        self.told_at = 0.0
        self.progress: Progress | None = None
        self.accuracy = "-"
        self.silent_views: set[str] = set()
        self.too_long_views: set[str] = set()
        self.degenerate_views: set[str] = set()

    def start(self, config: Config, run_dir: Path, first_step: int, num_problems: int) -> None:
        """The header: every batch size by its own name, and what follows from them."""
        self.config = config
        per_step = min(config.rollout.problems_per_step, num_problems)
        samples = sum(v.num_samples for v in config.views.values())
        by_view = ", ".join(f"{name} {v.num_samples}" for name, v in config.views.items())
        self.out.print(f"{config.name}: {config.method.type} on {config.model.path}, run directory {run_dir}")
        self.out.print(
            f"{num_problems} problems, {per_step} a step x {samples} samples "
            f"({by_view}) = {per_step * samples} rollouts a step, "
            f"{steps_of(max(1, num_problems // per_step))} an epoch, steps {first_step} to {config.steps}; "
            f"starting {config.runtime.type} ..."
        )

    def skipped(self, ids: Sequence[str], limit: int) -> None:
        if ids:
            self.err.print(
                f"skipped {len(ids)} problem(s) with a prompt longer than rollout.max_prompt_tokens = {limit}: {some_of(ids)}"
            )

    def evaluated(self, metrics: Mapping[str, float], done: int = 0) -> None:
        """The newest evaluation when the training begins, `done` steps after the first; starts the bar."""
        self._set_accuracy(metrics)
        if self.live:
            self.progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self.out,
            )
            self.task = self.progress.add_task(f"accuracy {self.accuracy}", completed=done, total=self.config.steps)
            self.progress.start()

    def step(self, row: Mapping[str, float]) -> None:
        """One finished step: moves the bar; tells of actors that were replaced, and once of a view without answers."""
        self._set_accuracy(row)
        if row["runtime/restarts"]:
            self.err.print(
                f"step {row['step']}: {row['runtime/restarts']:.0f} actor(s) died or hung and were started again "
                f"(runtime.max_restarts = {self.config.runtime.max_restarts} in a run)"
            )
        for view in self.config.views:
            if row[f"rollout/{view}/answered"] == 0 and view not in self.silent_views:
                self.silent_views.add(view)
                self.err.print(
                    f"step {row['step']}: view {view!r} returned no answers; "
                    "does the model follow its prompt (harmonyray list views), and is rollout.max_response_tokens long enough?"
                )
            if row.get(f"rollout/{view}/draft_too_long", 0) > 0 and view not in self.too_long_views:
                self.too_long_views.add(view)
                self.err.print(
                    f"step {row['step']}: view {view!r} has drafts whose second prompt would be longer than "
                    f"rollout.max_prompt_tokens = {self.config.rollout.max_prompt_tokens}: they count as drafts without "
                    f"a rewording (share in every step: rollout/{view}/draft_too_long)"
                )
        phases = " ".join(f"{name} {row[f'time/{name}_s']:.1f}s" for name in PHASES if row[f"time/{name}_s"] > 0.05)
        labels = f", right {row['consensus/label_accuracy']:.2f}" if "consensus/label_accuracy" in row else ""
        text = f"accuracy {self.accuracy} | labelled {row['consensus/coverage']:.2f}{labels} | {phases}"
        if self.progress is not None:
            self.progress.update(self.task, completed=row["step"], description=text)
        elif not self.live and (time.monotonic() - self.told_at >= LINE_S or row["step"] == self.config.steps):
            self.told_at = time.monotonic()
            self.out.print(f"step {row['step']}/{self.config.steps} {text}")

    def degenerate(self, view: str, reason: str) -> None:
        """A view that the audit found wanting; said once a view and run."""
        if view not in self.degenerate_views:
            self.degenerate_views.add(view)
            self.err.print(f"view {view!r} looks degenerate: {reason} (docs/views.md; audit/{view}/* in the metrics)")

    def alarm(self, event: Event) -> None:
        """What the collapse guard saw, and did."""
        self.err.print(f"{described(event)} (docs/guard.md)")

    def same_prompts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Views that ask the same thing."""
        for a, b in pairs:
            self.err.print(f"views {a!r} and {b!r} ask the same model with the same prompts and sampling: that is one view twice")

    def refused(self, reasons: Sequence[str], step: int) -> None:
        """Checkpoints that were found damaged, and the step of the one before them that is used."""
        for reason in reasons:
            self.err.print(f"{reason}; set aside as refused-step-..., going on from step {step}")

    def changed(self, what: Sequence[str]) -> None:
        """Options that a resumed run has otherwise than it was started with."""
        if what:
            self.err.print(f"configured otherwise than this run was started: {'; '.join(what)}")

    def learner_lost(self, why: str) -> None:
        """Why the learner is started again."""
        self.err.print(why)

    def started_again(self, step: int) -> None:
        self.err.print(f"the learner is started again, going on from step {step}")

    def interrupted(self) -> None:
        self.err.print("interrupted: finishing this step and saving a checkpoint (again to stop at once)")

    def nothing_left(self, run_dir: Path, summary: Mapping[str, Any]) -> None:
        """All that there is to say when a finished run is resumed."""
        self.out.print(
            f"{run_dir} is finished: all of its {steps_of(summary['steps'])} are done, and nothing was started. To train longer, "
            f"give the same command with a larger number of steps, e.g. steps={2 * summary['steps']}"
        )
        self.out.print((run_dir / SUMMARY_TEXT).read_text(), end="")

    def stopped(self, run_dir: Path) -> None:
        """The last word of an interrupted run."""
        self.close()
        self.err.print(f"stopped; go on with the same command and --run-dir {run_dir} --resume")

    def will_be_gone(self, run_dir: Path) -> None:
        self.err.print(
            f"{run_dir} lies in Ray's copy of the working directory, which Ray deletes when it likes: give --run-dir an absolute "
            "path on a file system that stays, and tracking.uri a server or a database there"
        )

    def tell(self, words: str) -> None:
        self.err.print(words)

    def tracking_errors(self, errors: Sequence[str]) -> None:
        for error in errors:
            self.tell(error)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def finish(self, config: Config, summary: Mapping[str, Any], rows: Sequence[Mapping[str, float]], uri: str) -> str:
        """Prints the closing table and says what to open; returns it as plain text."""
        self.close()
        table = result_table(config, summary, rows)
        lines = [*(described(event) for event in summary["guard"]), *_closing_lines(config, summary, uri)]
        if rows and not any(row["consensus/coverage"] for row in rows) and all(row["train/skipped"] for row in rows):
            lines.insert(
                0,
                "No problem got a pseudo-label in any step (coverage 0): no answer was common enough in the views "
                "(see the selector's min_score and min_margin), so nothing was trained.",
            )
        self.out.print(table)
        for line in lines:
            self.out.print(line)
        plain = Console(width=120, color_system=None, record=True, quiet=True, **LITERAL)
        with plain.capture() as captured:
            plain.quiet = False
            plain.print(table)
        return captured.get() + "\n".join(lines) + "\n"

    def _set_accuracy(self, row: Mapping[str, float]) -> None:
        key = f"eval/{next(iter(self.config.views))}/avg_at_k"
        if key in row:
            self.accuracy = f"{row[key]:.3f}"


def some_of(ids: Sequence[str]) -> str:
    """The first few of the ids, and how many more there are."""
    return ", ".join(ids[:SHOWN_IDS]) + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")


def _closing_lines(config: Config, summary: Mapping[str, Any], uri: str) -> list[str]:
    run_dir = summary["run_dir"]
    # The run's config.yaml lies beside the model: these problems are its own, so `eval` takes them as it says.
    problems = config.problems.options.path if config.problems.type == "file" else config.problems.type  # type: ignore[attr-defined]
    command = ["eval", "--model", f"{run_dir}/model", "--problems", problems]
    evaluate = [f"        {_tool('harmonyray')} {shlex.join(command)}"] if summary["eval_before"] else []
    model = [f"model   {run_dir}/model", *evaluate]
    if "paused" in summary:
        export = shlex.join(["export", run_dir, "--out", f"{run_dir}-model"])
        again = f"the same command with --run-dir {run_dir} --resume guard.action=warn, or with wider limits (docs/guard.md)"
        model = [f"go on   {again}", f"model   {_tool('harmonyray')} {export}"]
    return [
        f"run     {run_dir}",
        f"        cat {run_dir}/{SUMMARY_TEXT}",
        *model,
        *_where_in_mlflow(run_dir, summary["mlflow_run_id"], uri),
    ]


def _where_in_mlflow(run_dir: str, run_id: str | None, uri: str) -> list[str]:
    if run_id is None:
        return [f"MLflow  not reached at {uri}", f"        {_tool('harmonyray')} {shlex.join(['track', 'sync', run_dir])}"]
    if uri.startswith(("http://", "https://")):
        return [f"MLflow  run {run_id}", f"        {uri}"]
    return [f"MLflow  run {run_id}", f"        {_tool('mlflow')} ui --backend-store-uri {uri}"]


def _tool(name: str) -> str:
    """How to call a command of this installation: by name if that finds it, else by its path."""
    path = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not path.exists() or (found is not None and Path(found).samefile(path)):
        return name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
