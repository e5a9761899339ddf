"""What a run has to tell MLflow, in order, and how much of it has arrived. Nothing here knows mlflow or the network.

A run directory keeps it in two files: `mlflow.jsonl`, a record a line, which only grows; and `mlflow-sent.json`, how many of them
a store has taken, and which it has refused. A store that takes a record twice is left as by taking it once, so a crash between
taking and counting does no harm.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harmonyray.errors import ConfigError, brief
from harmonyray.files import write_text
from harmonyray.lines import append_text, cut_to_whole_lines, json_line, read_lines

RECORDS, SENT = "mlflow.jsonl", "mlflow-sent.json"
CHANGED = "resumed."  # before the name of a parameter that a resume has changed, in a tag: MLflow's parameters are for good

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """An MLflow store and an experiment in it. `artifact_root` is where a new experiment keeps its artifacts, if that is ours to
    say (a local store's is)."""

    uri: str
    artifact_root: str | None
    experiment: str


class Facts:
    """What the records say of the run so far. `last_step` is the last one with metrics (-1: none yet), where those after a `back`
    count anew; `params` are the parameters as of the last start or resume."""

    def __init__(self) -> None:
        self.start: Record = {}
        self.last_step = -1
        self.params: dict[str, str] = {}

    def take(self, record: Record) -> None:
        match record["kind"]:
            case "start":
                self.start = record
            case "params":
                self.params |= record["values"]
            case "tag" if record["key"].startswith(CHANGED):
                self.params[record["key"].removeprefix(CHANGED)] = record["value"]
            case "metrics":
                self.last_step = record["step"]
            case "back":
                self.last_step = min(self.last_step, record["step"])


class Outbox:
    """The records of one run, and which of them the store at `place` still has to get. Any thread may append; one empties it.

    In memory until `keep`; then in the directory too. Where the directory has some, they are taken up; a store that is not the
    one of before gets everything from the beginning. Where it has none, what is new goes to the store's run `run_id`, if given.
    """

    def __init__(self, directory: Path, place: Place, name: str, run_id: str | None = None) -> None:
        self.directory, self.place = directory, place
        self.run_id = run_id
        self.refused: dict[int, str] = {}  # by the record's number: why
        self._lock = threading.Lock()
        self._sent = 0
        records = read_lines(directory / RECORDS)
        self.is_new = not records
        self._on_disk = bool(records)
        self.broken = ""  # why nothing can be written to the directory any more; what is there stays as it is
        self._early: list[Record] = []  # what `keep` has to write
        self._waiting = deque(records)
        self.facts = Facts()
        for record in records:
            self.facts.take(record)
        if self.is_new:
            self.append({"kind": "start", "name": name, "key": uuid.uuid4().hex})
        else:
            self.run_id = None
            cut_to_whole_lines(directory / RECORDS)
            self._take_up_count(place)

    @classmethod
    def of_directory(cls, directory: Path) -> Outbox:
        """That of a run that is over. Raises ConfigError if the directory has none."""
        try:
            (directory / RECORDS).stat()
            place = Place(**json.loads((directory / SENT).read_text())["place"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigError(
                f"'{directory}' has no {RECORDS} and {SENT} that can be read ({brief(e)}): expected the directory of a run that "
                "has begun its steps, or of `eval --out`"
            ) from e
        return cls(directory, place, directory.name)

    def _take_up_count(self, place: Place) -> None:
        path = self.directory / SENT
        state: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if state and state["place"]["uri"] == place.uri:
            self.run_id, self._sent = state["run_id"], state["sent"]
            self.refused = {int(number): why for number, why in state["refused"].items()}
            for _ in range(min(self._sent, len(self._waiting))):
                self._waiting.popleft()

    @property
    def kept(self) -> bool:
        return self._on_disk

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_left(self) -> int:
        """Those that wait, and those that were refused."""
        return len(self._waiting) + len(self.refused)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record, with the time. One that cannot be written to the directory is sent all the same."""
        whole = {**record, "time_ms": int(time.time() * 1000)}
        with self._lock:
            self.facts.take(whole)
            self._waiting.append(whole)
            if self._on_disk:
                self._write([whole])
            else:
                self._early.append(whole)

    def keep(self) -> None:
        """Writes everything to the directory, from now on as it comes."""
        with self._lock:
            if self._on_disk:
                return
            self._on_disk = True
            self._save()
            self._write(self._early)
            self._early = []

    def next(self) -> Record | None:
        return self._waiting[0] if self._waiting else None

    def sent(self) -> None:
        """The store has the `next` one."""
        with self._lock:
            self._pass_over()

    def refuse(self, why: str) -> None:
        """The store does not take the `next` one."""
        with self._lock:
            self.refused[self._sent] = why
            self._pass_over()

    def points_after(self, step: int) -> dict[int, dict[str, float | str]]:
        """By step, what the directory's records say last of each metric after `step`."""
        out: dict[int, dict[str, float | str]] = {}
        for record in read_lines(self.directory / RECORDS):
            if record["kind"] == "metrics" and record["step"] > step:
                out.setdefault(record["step"], {}).update(record["values"])
        return out

    def refused_records(self) -> list[tuple[int, Record]]:
        records = read_lines(self.directory / RECORDS)
        return [(number, records[number]) for number in sorted(self.refused)]

    def settle(self, number: int, why: str | None) -> None:
        """A refused record was offered once more: taken (None), or refused again."""
        with self._lock:
            del self.refused[number]
            if why is not None:
                self.refused[number] = why
            self._save()

    def belongs_to(self, run_id: str) -> None:
        """The run that the store has given us."""
        with self._lock:
            self.run_id = run_id
            self._save()

    def begin_anew(self) -> None:
        """The store has lost the run: it gets another, with everything."""
        with self._lock:
            self.run_id, self._sent, self.refused = None, 0, {}
            self._waiting = deque(read_lines(self.directory / RECORDS) if self._on_disk else self._early)
            self._save()

    def _pass_over(self) -> None:
        self._waiting.popleft()
        self._sent += 1
        self._save()

    def _write(self, records: Iterable[Record]) -> None:
        if self.broken:
            return
        try:
            append_text(self.directory / RECORDS, "".join(map(json_line, records)))
        except OSError as e:
            self.broken = brief(e)

    def _save(self) -> None:
        if not self._on_disk or self.broken:
            return
        state = {"place": asdict(self.place), "run_id": self.run_id, "sent": self._sent, "refused": self.refused}
        try:
            write_text(self.directory / SENT, json.dumps(state))
        except OSError as e:
            self.broken = brief(e)
