"""The MLflow side of a run that is going on: everything goes to the outbox, and a thread sends it from there."""

from __future__ import annotations

import math
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harmonyray.errors import ServerAwayError, TrackingError
from harmonyray.mlflow_store import MlflowStore, deliver
from harmonyray.outbox import CHANGED, Outbox, Place

PARAM_CHARS = 500
RETRY_S = 30.0  # between two tries to reach a server that is away


class MlflowRun:
    """One MLflow run, written in order by a background thread, the only one to import mlflow (two at once meet half-made
    modules).

    Nobody waits for the store while the run goes on: a record is appended to a file, and that is all that a step pays, however
    slow the server. Of one that is away the user is told once, through `tell`; it is tried again every 30 s, and at the end.
    """

    def __init__(self, place: Place, directory: Path, name: str, tell: Callable[[str], None], run_id: str | None = None) -> None:
        """Begins the run in the background, or takes up the one that the directory has records of, or, without records, the
        store's `run_id`."""
        self.uri, self._tell, self._command = place.uri, tell, sync_command(directory)
        self._outbox = Outbox(directory, place, name, run_id)
        self._before: Mapping[
            int, Mapping[str, float | str]
        ] = {}  # by step: what an earlier process logged and this one does again
        if not self._outbox.is_new or run_id is not None:
            self._outbox.append({"kind": "status", "status": "RUNNING"})
        self._changed = threading.Condition()  # guards what follows
        self._opened = self._asked = self._closing = self._away = self._told = False
        self._tries = 0
        self._problem: TrackingError | None = None
        self._at_once = False  # whether the problem was there at the first try
        self._store = MlflowStore(self._outbox)
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """None while the server is away. Waits until it has been asked, which it is once more if it was away. Raises
        TrackingError if the store could not be used from the first."""
        with self._changed:
            if not self._opened:
                seen, self._asked = self._tries, True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._opened or self._tries > seen or not self._thread.is_alive())
            if self._problem is not None and self._at_once:
                raise self._problem
        return self._outbox.run_id

    def keep(self) -> None:
        """From now on the records are kept in the directory: the run is one that can be resumed."""
        self._outbox.keep()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The parameters of a new run. MLflow lets none be changed: those that are others in a run that was taken up stand in
        the tags `resumed.<name>`."""
        values = {key: str(value)[:PARAM_CHARS] for key, value in params.items()}
        if not self._outbox.facts.params:
            self._add({"kind": "params", "values": values})
            return
        before = dict(self._outbox.facts.params)
        for key, value in values.items():
            if before.get(key) != value:
                self.log_tag(f"{CHANGED}{key}", value)

    def log_metrics(self, row: Mapping[str, float], step: int) -> None:
        """A step's metrics. A step that has been logged is left as it is, unless the run went back; of one that is run again
        after a resume, what came out otherwise is logged. In the record numbers that are not finite are texts ("nan"), since
        JSON has no such numbers; MLflow has."""
        if step > self._outbox.facts.last_step:
            numbers = {key: float(value) for key, value in row.items() if key != "step"}
            values = {key: value if math.isfinite(value) else str(value) for key, value in numbers.items()}
            before = self._before.get(step, {})
            changed = {key: value for key, value in values.items() if before.get(key) != value}
            self._add({"kind": "metrics", "step": step, "values": changed})

    def log_tag(self, key: str, value: str) -> None:
        self._add({"kind": "tag", "key": key, "value": value})

    def go_back(self, step: int) -> None:
        """The steps after `step` are run again, and their points logged beside the first ones."""
        self._before = {}
        self._add({"kind": "back", "step": step})

    def resume_after(self, step: int) -> None:
        """The same after a resume, where most come out as they were: those points are not logged a second time."""
        self.go_back(step)
        self._before = self._outbox.points_after(step)

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """A file, or a directory's files but for hidden ones, as artifacts. They are read when they are sent."""
        base = self._outbox.directory
        files = [p for p in path.rglob("*") if p.is_file() and not any(part[0] == "." for part in p.relative_to(path).parts)]
        for file in sorted(files) if path.is_dir() else [path]:
            within = "/".join([*([folder] if folder else []), *file.relative_to(path).parts[:-1]]) if file != path else folder
            shown = file.relative_to(base) if file.is_relative_to(base) else file.resolve()
            self._add({"kind": "artifact", "path": str(shown), "folder": within or None})

    def finish(self, status: str) -> list[str]:
        """Ends the run as FINISHED, FAILED or KILLED, and waits until everything is sent or the server is found away. Returns
        what has to be said of records that are not there."""
        self._add({"kind": "status", "status": status})
        with self._changed:
            self._closing = self._asked = True
            self._changed.notify_all()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # nobody wants to wait
            for words in self._words():
                self._tell(words)
            raise
        return [] if self._problem is not None and self._at_once else self._words()  # else `run_id` has raised it

    def _words(self) -> list[str]:
        outbox = self._outbox
        again = f"send with: {self._command}" if outbox.kept else "they are lost, since nothing of this was kept"
        words = [
            f"MLflow did not take {n} record(s) ({why}); {again}" for why, n in sorted(Counter(outbox.refused.values()).items())
        ]
        if self._problem is not None:
            words.append(f"{self._problem}; {again}")
        elif outbox.num_waiting:
            words.append(f"{outbox.num_waiting} record(s) are not in MLflow at {self.uri}; {again}")
        elif self._told:
            words.append(f"MLflow at {self.uri} answers again and has everything")
        if outbox.broken:
            words.append(f"the records for MLflow could not all be kept ({outbox.broken}): what was not sent is lost")
        return words

    def _add(self, record: Mapping[str, Any]) -> None:
        self._outbox.append(record)
        with self._changed:
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            self._try()
            with self._changed:
                at_rest = self._away or not self._outbox.num_waiting
                if self._problem is not None or (self._closing and not self._asked and at_rest):
                    return
                self._changed.wait_for(self._wanted, RETRY_S if self._away else None)

    def _wanted(self) -> bool:
        return self._asked or self._closing or (not self._away and self._outbox.num_waiting > 0)

    def _try(self) -> None:
        """Reaches for the store and sends what waits, as far as it goes."""
        problem, away = None, ""
        with self._changed:
            self._asked = False
        try:
            self._store.open()
            with self._changed:
                self._opened = True
                self._changed.notify_all()
            deliver(self._outbox, self._store)
        except TrackingError as e:
            problem = e
        except ServerAwayError as e:
            away = str(e)
            self._tell_once(away)
        with self._changed:
            self._problem, self._at_once, self._away = problem, self._tries == 0, bool(away)
            self._tries += 1
            self._changed.notify_all()

    def _tell_once(self, why: str) -> None:
        if not self._told:
            self._told = True
            with suppress(OSError):  # nobody may be reading
                self._tell(
                    f"MLflow at {self.uri} does not answer ({why}): the run goes on, and keeps what it has to tell MLflow until "
                    f"the server is back; after the run, send it with: {self._command}"
                )


def sync_command(directory: Path) -> str:
    """What sends a run's records later."""
    return shlex.join(["harmonyray", "track", "sync", str(directory)])
