"""A muon-tomography portal: panels around a volume, to find what hides in it."""

from kythera.instruments.muon_portal.design import Panels as Panels
from kythera.instruments.muon_portal.design import Portal as Portal
from kythera.instruments.muon_portal.design import Prices as Prices
from kythera.instruments.muon_portal.problem import problem as problem

# Run settings of the command line, where the user gives none.
defaults = {
    "optimiser": "adam:step=0.05,schedule=32",
    "trials": 32,
    "report_rows": 384,
}
