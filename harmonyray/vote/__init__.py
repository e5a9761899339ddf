"""`harmonyray vote`: recorded answers in, pseudo-labels out, under one selector or several. No model, no torch, no ray."""

from harmonyray.vote.candidates import DEFAULT, parse_options
from harmonyray.vote.voting import VoteRequest, run_vote

__all__ = ["DEFAULT", "VoteRequest", "parse_options", "run_vote"]
