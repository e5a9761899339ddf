"""Sweeps: many runs of one base configuration, as processes of their own, and the comparison of what became of them.

`file` says what a sweep is, `trials` what it consists of, `state` what is known of each, `scheduler` runs them, `results` are the
numbers, `tables` and `plots` what people see of them, and `command` puts it together. Nothing here knows how a run trains.
"""
