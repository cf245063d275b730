"""Parsers of hostile input, fuzzed: `targets.py` says what each promises, `corpus.py` where to begin.

`test_fuzz.py` does it for seconds with hypothesis in the normal run; `python -m tests.fuzz` (`make fuzz`) for as long as one
likes with atheris, which looks where the code goes.
"""
