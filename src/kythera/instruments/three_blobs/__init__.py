"""Three blobs: a summary statistic trained through the fit that will use it (neos)."""

from kythera.instruments.three_blobs.design import Observable as Observable
from kythera.instruments.three_blobs.problem import problem as problem

# Run settings of the command line, where the user gives none.
defaults = {"optimiser": "adam:step=0.02", "trials": 150}
