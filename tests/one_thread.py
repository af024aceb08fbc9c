"""Imported before torch: one thread for each process, this one and those that tests start.

At these sizes a second thread mostly waits for the first: a hundred steps of an MLP take ten times the processor's
time. Who wants to try another number sets these variables.
"""

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
