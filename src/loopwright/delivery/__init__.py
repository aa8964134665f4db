"""Delivery: from the journal to the services, in a process of its own.

sink.py      what a tracker must be able to do
store.py     `delivery.db`: how far each tracker is with each run
worker.py    one thread per tracker: batches, deadlines, confirmation
retry.py     how long to wait after a failure
follower.py  the delivery process itself, which is also `loopwright sync`
process.py   the training's end of it: starts, watches, restarts and ends that process

The loop's thread is never in here, but to start and to end it.
"""
