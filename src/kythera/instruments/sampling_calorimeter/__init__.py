"""A sampling calorimeter: layers of absorber and scintillator that measure energies."""

from kythera.instruments.sampling_calorimeter.design import Stack as Stack
from kythera.instruments.sampling_calorimeter.problem import problem as problem

# Run settings of the command line, where the user gives none.
defaults = {"optimiser": "adam:step=0.03,schedule=80", "trials": 80}
