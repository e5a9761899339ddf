"""Checkpoints that are written while the next rollouts are sampled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

from harmonyray.errors import RunError, brief


class Saving:
    """Saves one step at a time in another thread, with `save`. `step`: the last one that is saved.

    Until `finish` has returned nothing may change that a checkpoint holds: weights, optimizer, the state of method and guard.
    """

    def __init__(self, save: Callable[[int], None], step: int, threads: Executor) -> None:
        self.step, self._save, self._threads = step, save, threads
        self._writing: tuple[int, Future[None]] | None = None

    def begin(self, step: int) -> None:
        """Does not wait. What was begun before has to be finished."""
        assert self._writing is None, "a checkpoint is still being written"
        self._writing = step, self._threads.submit(self._save, step)

    def finish(self) -> None:
        """Waits for the step that is being saved, if there is one. Raises what `save` raised, once."""
        if self._writing is not None:
            (step, writing), self._writing = self._writing, None
            writing.result()
            self.step = step

    def settle(self) -> None:
        """Waits likewise, whatever comes of it."""
        wait([] if self._writing is None else [self._writing[1]])

    def finish_after(self, error: RunError, finished: int | None) -> None:
        """What was learned until the step that is `finished` is kept, unless it is None: the learner may have gone on since. A
        failure is a note on the `error` that ended the run."""
        try:
            self.finish()
            if finished is not None and finished > self.step:
                self._save(finished)
        except Exception as e:  # noqa: BLE001 - whatever it is, `error` is what ended the run
            error.add_note(f"step {finished} could not be saved: {brief(e)}")
