"""What the CPU computes with: kernels, one a file, and the choice among them that a trial on it decides.

Which kernel is the fastest, and in which number format, differs from one make of CPU to the next by factors;
so no such judgement is written down here. `trial.py` measures, `choice.py` decides and remembers, `fit.py`
does as decided.
"""
