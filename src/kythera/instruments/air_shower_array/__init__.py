"""An air-shower array: thousands of tanks that tell gamma rays from protons."""

from kythera.instruments.air_shower_array.design import Layout as Layout
from kythera.instruments.air_shower_array.problem import problem as problem

# Run settings of the command line, where the user gives none.
defaults = {"optimiser": "adam:step=0.02,schedule=100", "trials": 100}
