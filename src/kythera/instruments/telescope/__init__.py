"""The toy with a known answer: a straight-track telescope."""

from kythera.instruments.telescope.design import Telescope as Telescope
from kythera.instruments.telescope.problem import problem as problem

# Run settings of the command line, where the user gives none.
defaults = {"optimiser": "adam:step=0.05", "trials": 60}
