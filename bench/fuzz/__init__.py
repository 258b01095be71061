"""Coverage-guided fuzzing of what reads hostile bytes: `python -m bench.fuzz TARGET --seconds N`.

The laws are in bench/fuzz/laws.py and are held by the quick property tests as well; this run only looks longer and
follows the branches taken.
"""
