"""SIGTERM while a library has put its own handler in the place of ours; that of whole runs is in `actors/test_process_faults`."""

from __future__ import annotations

import signal
import sys

import pytest

from harmonyray.interrupts import termination_interrupts, termination_kept


def test_a_sigterm_while_another_handler_stands_is_an_interrupt_too_and_ours_stands_again() -> None:
    with termination_interrupts():
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), termination_kept():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as `ray.init` does
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is ours


def test_another_end_stays_what_it_is() -> None:
    with pytest.raises(SystemExit), termination_kept():
        sys.exit(1)
