"""An MLflow store, local or a server's: the only module of a run that imports mlflow, and that only when a store is opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harmonyray.errors import ServerAwayError, TrackingError, brief
from harmonyray.outbox import Outbox, Record

PARAMS_AT_ONCE = 100  # the most that one request may hold
METRICS_AT_ONCE = 1000
KEY = "harmonyray.run"  # the tag by which a run is found whose making was asked for and never answered
REQUEST_S = 20

ENVIRONMENT = {  # set where the user has not
    # Whoever waits for a server here tries again later, so mlflow need not do so itself, for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_S),
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for the run's own words
}
NOT_NOW = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class MlflowStore:
    """Where an outbox's records go. Call `open` before `take`; one thread only."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._remote = outbox.place.uri.startswith(("http://", "https://"))
        self._may_be_there = not outbox.is_new
        self._client: Any = None

    def open(self) -> None:
        """Takes up the run, or makes it; does nothing if that is done. Raises ServerAwayError, and TrackingError for a store that
        cannot be used."""
        if self._client is not None:
            return
        uri = self._outbox.place.uri
        try:
            with self._asking():
                client = self._connect(uri)
                if self._outbox.run_id is not None and not _has(client, self._outbox.run_id):
                    self._outbox.begin_anew()
                if self._outbox.run_id is None:
                    self._outbox.belongs_to(self._make(client))
                self._client = client
        except ServerAwayError:
            raise
        except Exception as e:  # what a store raises depends on its kind: MLflow's own, SQLAlchemy's, sockets'
            raise TrackingError(
                f"the MLflow store {uri!r} cannot be used: {brief(e)}; correct 'tracking.uri', or null for a local file"
            ) from e

    def take(self, record: Record) -> None:
        """Raises ServerAwayError, or whatever the store refuses the record with."""
        with self._asking():
            self._send(record, self._outbox.run_id)

    def _connect(self, uri: str) -> Any:
        if self._remote:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for noisy in ("alembic", "mlflow"):  # after the import, which sets levels of its own; errors are told by the run
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        return MlflowClient(uri)

    def _make(self, client: Any) -> str:
        start = self._outbox.facts.start
        experiment = _experiment(client, self._outbox)
        if self._may_be_there:
            found = client.search_runs([experiment], f"tags.`{KEY}` = '{start['key']}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        self._may_be_there = True
        run = client.create_run(experiment, start_time=start["time_ms"], tags={KEY: start["key"]}, run_name=start["name"])
        return str(run.info.run_id)

    def _send(self, record: Record, run_id: str | None) -> None:
        match record["kind"]:
            case "params":
                self._send_params(record["values"], run_id)
            case "metrics":
                self._send_metrics(record, run_id)
            case "tag":
                self._client.set_tag(run_id, record["key"], record["value"])
            case "artifact":
                self._client.log_artifact(run_id, str(self._outbox.directory / record["path"]), record["folder"])
            case "status" if record["status"] == "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            case "status":
                self._client.set_terminated(run_id, record["status"], record["time_ms"])

    def _send_params(self, values: Mapping[str, str], run_id: str | None) -> None:
        from mlflow.entities import Param

        batch = [Param(key, value) for key, value in values.items()]
        for i in range(0, len(batch), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=batch[i : i + PARAMS_AT_ONCE])

    def _send_metrics(self, record: Record, run_id: str | None) -> None:
        from mlflow.entities import Metric

        batch = [Metric(key, float(value), record["time_ms"], record["step"]) for key, value in record["values"].items()]
        for i in range(0, len(batch), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=batch[i : i + METRICS_AT_ONCE])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Tells a server that does not answer from one that says no."""
        try:
            yield
        except Exception as e:
            if self._remote and _is_away(e):
                raise ServerAwayError(brief(_root(e))) from e
            raise


def deliver(outbox: Outbox, store: MlflowStore) -> None:
    """Sends what waits, in order; what the store refuses is set aside. Raises ServerAwayError."""
    while (record := outbox.next()) is not None:
        try:
            store.take(record)
        except ServerAwayError:
            raise
        except Exception as e:  # noqa: BLE001 - what a store raises depends on its kind; the outbox keeps and tells it
            outbox.refuse(brief(e))
        else:
            outbox.sent()


def offer_again(outbox: Outbox, store: MlflowStore) -> None:
    """Sends once more what the store had refused. Raises ServerAwayError."""
    for number, record in outbox.refused_records():
        try:
            store.take(record)
        except ServerAwayError:
            raise
        except Exception as e:  # noqa: BLE001 - as in `deliver`
            outbox.settle(number, brief(e))
        else:
            outbox.settle(number, None)


def _is_away(error: Exception) -> bool:
    """Whether nobody answered, or only something in front of the server. An answer of MLflow itself, its 500 included, is about
    what was sent."""
    from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
    from requests.exceptions import HTTPError, RequestException

    if isinstance(error, RestException):
        return error.error_code in NOT_NOW
    if isinstance(error, InvalidUrlException):
        return False
    if isinstance(error, MlflowException):  # of mlflow's client, around what requests and urllib3 raised
        return error.error_code in (*NOT_NOW, "INTERNAL_ERROR") and "500 error responses" not in str(error)
    if isinstance(error, HTTPError):
        return error.response is not None and error.response.status_code in (429, 502, 503, 504)
    return isinstance(error, RequestException | ConnectionError | TimeoutError)


def _root(error: BaseException) -> BaseException:
    """What went wrong at the bottom: what lies around it are mlflow's, requests' and urllib3's words for the same."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _has(client: Any, run_id: str) -> bool:
    """Whether the store has the run; it has not where a run directory was moved away from its store."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as e:
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _experiment(client: Any, outbox: Outbox) -> str:
    """The id of the experiment, made if it is not there."""
    from mlflow.exceptions import MlflowException

    place = outbox.place
    found = client.get_experiment_by_name(place.experiment)
    if found is None:
        try:
            return str(client.create_experiment(place.experiment, artifact_location=place.artifact_root))
        except MlflowException:  # another run made it between the two calls
            found = client.get_experiment_by_name(place.experiment)
            if found is None:
                raise
    return str(found.experiment_id)
