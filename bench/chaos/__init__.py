"""Kills parts of a running installation at seeded moments under load, then compares with what an undisturbed run gives.

`python -m bench.chaos --kills 1000` is the long run; tests/e2e/test_chaos.py is the short one.
"""
