"""What `harmonyray vote` votes on: the answers of one problem at a time, out of a file or out of a run's records, counted."""

from harmonyray.ballots.counting import Ballot, file_ballots, run_ballots

__all__ = ["Ballot", "file_ballots", "run_ballots"]
