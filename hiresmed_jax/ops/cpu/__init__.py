"""What only XLA's CPU compiler needs: other ways to compute the ops of the same names.

Each gives the numbers of the plain way but for rounding. `benchmarks/cpu_gains.py` measures them.
"""

# Values of an array from which a loop pays. Below, it costs more, in the compiler above all.
LARGE = 1 << 18
