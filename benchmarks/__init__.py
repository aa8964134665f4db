"""Benchmarks of Loopwright beside the bare loop and the peers: `python -m benchmarks --help`.

Not a part of the installed package. Whatever is timed runs in worker processes (`worker.py`), the implementations in
turn, round after round (`rounds.py`), and every figure is printed with its spread and with the bare loop measured
against itself: what that row is away from 1 is noise.
"""
