"""The synthetic benchmark of INFERNO: which summary measures a signal best."""

from kythera.instruments.inferno_toy.design import Analysis as Analysis
from kythera.instruments.inferno_toy.problem import problem as problem

# Run settings of the command line, where the user gives none: Adam at a rate of 3e-4.
defaults = {"optimiser": "adam:step=3e-5,schedule=3000", "trials": 3000}
