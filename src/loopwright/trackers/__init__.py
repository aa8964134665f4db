"""Trackers: one file for each service, and what they share.

base.py        `TrackerCallback`: what a tracker is to the Trainer and to delivery
registry.py    which trackers there are, and which can be used here
placement.py   which have to live in the training process, and why
reporting.py   one run's journal and trackers, as the Trainer uses them
local.py       trackers inside the training process
standalone.py  the same for a tracker attached to another library's Trainer
naming.py      names of metrics, as transformers groups them

No SDK is imported before its tracker is opened.
"""
