"""What to cite for kythera itself."""

from kythera import __version__

REFERENCES = (
    f"The kythera developers, kythera {__version__}: end-to-end optimisation of "
    "instruments that measure radiation",
    "T. Dorigo et al., Toward the end-to-end optimization of particle physics "
    "instruments with differentiable programming, Reviews in Physics 10 (2023) 100085, "
    "arXiv:2203.13818",
)
