"""Rows out of Hugging Face data sets, with `datasets`, which is loaded here and only when a data set is read.

A data set is a name on the hub, or a folder or file of the same columns. Every fault is a ProblemError with the fix; no
message quotes what stands in a data file, for it may be a reference answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.registry import nearest

_BUILDERS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Split:
    """One table of a data set. `config_is_optional`: a folder that has no such configuration may do with its only one;
    `split` None: the only one there is."""

    dataset: str
    config: str | None = None
    config_is_optional: bool = False
    split: str | None = None
    revision: str | None = None

    def origin(self, split: str | None = None) -> str:
        """What messages call it."""
        parts = ", ".join(p for p in (self.config, split or self.split) if p)
        return f"{self.dataset} ({parts})" if parts else self.dataset

    @property
    def path(self) -> Path | None:
        """The local folder or file that it is; None for a data set on the hub."""
        path = Path(self.dataset).expanduser()
        return path if path.exists() or self.dataset.startswith((".", "/", "~")) else None


def read_hub_rows(wanted: Split, columns: frozenset[str]) -> tuple[Iterator[Row], str]:
    """The rows of a data set, one at a time, those of `columns` that it has, and the name of the split.

    Raises ProblemError if it is not there, cannot be reached, is gated or broken, or has no such configuration or split.
    """
    data, split = _guarded(wanted, lambda: _load(wanted))
    names = tuple(str(name) for name in data.column_names)
    part = data.select_columns([name for name in names if name in columns])
    return _rows(part, wanted.origin(split), names), split


def _rows(data: Any, origin: str, names: tuple[str, ...]) -> Iterator[Row]:
    """`data` has some of the columns `names`. A row without any value is still a row."""
    rows = iter(data) if data.column_names else ({} for _ in range(len(data)))
    index = 0
    while True:
        try:
            values = next(rows, None)
        except UnicodeDecodeError as e:
            raise ProblemError(
                f"{origin}, row {index + 1}: a text is not UTF-8 ({e.reason}); expected UTF-8: write the data file again"
            ) from None
        if values is None:
            return
        index += 1
        yield Row(origin, f"row {index}", values, names)


def _load(wanted: Split) -> tuple[Any, str]:
    """The split as a `datasets.Dataset`, and its name."""
    import datasets

    where, options = _arguments(wanted)
    datasets.disable_progress_bars()
    if wanted.split is not None:
        try:
            return datasets.load_dataset(where, split=wanted.split, **options), wanted.split
        except ValueError:
            splits = list(datasets.load_dataset(where, **options))  # from the cache: the split was looked for in it
            if wanted.split.partition("[")[0] in splits:
                raise
            raise _no_split(wanted, splits) from None
    whole = datasets.load_dataset(where, **options)
    if len(whole) != 1:
        raise ProblemError(f"{wanted.origin()} has the splits {', '.join(whole)}; expected to be told which: set problems.split")
    return next(iter(whole.values())), next(iter(whole))


def _no_split(wanted: Split, splits: list[str]) -> ProblemError:
    return ProblemError(
        f"{wanted.origin()}: there is no split {wanted.split!r}; it has {', '.join(repr(s) for s in splits)}: set problems.split"
    )


def _arguments(wanted: Split) -> tuple[str, dict[str, Any]]:
    """What `datasets.load_dataset` is called with."""
    path = wanted.path
    if path is None:
        return wanted.dataset, {"name": wanted.config, "revision": wanted.revision}
    if not path.exists():
        raise ProblemError(f"no such file or folder: {path} (looked in {path.parent.absolute()}): correct problems.dataset")
    if wanted.revision is not None:
        raise ProblemError(f"{path} is a folder or file here and has no revisions: leave problems.revision out")
    if path.is_file():
        if wanted.config is not None and not wanted.config_is_optional:
            raise ProblemError(f"{path} is a single file and has no configurations: leave problems.config out")
        if path.suffix.lower() not in _BUILDERS:
            raise ProblemError(f"{path} has extension {path.suffix!r}; expected one of {', '.join(_BUILDERS)}: convert the file")
        return _BUILDERS[path.suffix.lower()], {"data_files": {wanted.split or "train": str(path)}}
    return str(path), {"name": _local_config(wanted, path)}


def _local_config(wanted: Split, path: Path) -> str | None:
    """The configuration of a folder: most have one, which nobody named."""
    import datasets

    configs = datasets.get_dataset_config_names(str(path))
    if wanted.config is None or wanted.config in configs:
        return wanted.config
    if wanted.config_is_optional and len(configs) == 1:
        return None
    raise ProblemError(f"{path} has no configuration {wanted.config!r}: {nearest(wanted.config, configs)} Set problems.config")


def _guarded(wanted: Split, load: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
    """What `load` gives. Raises ProblemError for whatever `datasets` raises."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        return load()
    except DatasetNotFoundError as e:
        raise ProblemError(_not_found(wanted, str(e))) from None
    except (ConnectionError, TimeoutError):
        raise ProblemError(_unreachable(wanted)) from None
    except StopIteration:
        raise ProblemError(f"{wanted.origin()} has no rows; expected at least one problem: fill it or name another") from None
    except (ValueError, RuntimeError, OSError, DatasetsError) as e:
        available = re.search(r"BuilderConfig .* not found\. Available: (\[.*\])", str(e))
        missing = re.search(r"Config name is missing.*pick one among the available configs: (\[.*?\])", str(e), flags=re.S)
        configs = available or missing
        if configs:
            raise ProblemError(
                f"{wanted.dataset}: there is no configuration {wanted.config!r}; it has {configs[1]}: set problems.config"
            ) from None
        if wanted.path is None and isinstance(e, OSError):  # after five attempts, or a cache that cannot be written
            reason = "" if isinstance(e, FileNotFoundError) else f" ({_reason(e)})"
            raise ProblemError(_unreachable(wanted, reason)) from None
        raise ProblemError(
            f"{wanted.origin()} cannot be read: {_reason(e)}; expected data files that `datasets` loads (JSON Lines, Parquet or "
            "CSV, in UTF-8, the same columns in all): repair the files"
        ) from None


def _not_found(wanted: Split, message: str) -> str:
    page = f"https://huggingface.co/datasets/{wanted.dataset}"
    if "gated" in message:
        return (
            f"{wanted.dataset} is gated: its authors want to know who reads it. Accept their terms at {page}, then log in with "
            "`hf auth login` or set HF_TOKEN; or set problems.dataset to a folder that has its files"
        )
    if "Revision" in message:
        return (
            f"{wanted.dataset} has no revision {wanted.revision!r}: correct problems.revision (its history: {page}/commits/main)"
        )
    return (
        f"no data set {wanted.dataset!r} can be seen on the hub: correct problems.dataset, or, if it is private, log in with "
        "`hf auth login` or set HF_TOKEN; a folder or file here is written with a leading ./"
    )


def _unreachable(wanted: Split, reason: str = "") -> str:
    offline = "HF_HUB_OFFLINE is set, so only what was downloaded before can be read" if _offline() else "check the network"
    return (
        f"{wanted.dataset} cannot be fetched from the hub{reason}: {offline}. HF_HOME says where downloads are kept, HF_ENDPOINT "
        "names a mirror; or set problems.dataset to a folder that has its files"
    )


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _reason(error: BaseException) -> str:
    """The innermost cause in one line, without what it quotes."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8 ({error.reason})"
    line = next(iter(str(error).strip().splitlines()), "")
    line = re.sub(r"(?<!\w)'[^']*'|\"[^\"]*\"", "...", line)[:_LONGEST_REASON]
    return line or type(error).__name__
