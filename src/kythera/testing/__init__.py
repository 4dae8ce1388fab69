"""Public checks for people who write instruments and engines; the laws use the same ones.

Each raises an `AssertionError` that says which law is broken, by which values. They need
nothing but what is handed to them, so that they run under any test framework.
"""

from kythera.testing.engines import (
    check_estimator as check_estimator,
)
from kythera.testing.engines import (
    check_optimiser as check_optimiser,
)
from kythera.testing.fronts import (
    dtlz2 as dtlz2,
)
from kythera.testing.fronts import (
    straw_tracker as straw_tracker,
)
from kythera.testing.fronts import (
    straws as straws,
)
from kythera.testing.fronts import (
    two_spheres as two_spheres,
)
from kythera.testing.instruments import (
    check_instrument as check_instrument,
)
from kythera.testing.instruments import (
    check_space as check_space,
)
from kythera.testing.objectives import check_objective as check_objective
from kythera.testing.stages import (
    check_gradient as check_gradient,
)
from kythera.testing.stages import (
    check_log_prob as check_log_prob,
)
from kythera.testing.stages import (
    check_problem_gradient as check_problem_gradient,
)
from kythera.testing.stages import (
    check_source as check_source,
)
from kythera.testing.stages import (
    check_stage as check_stage,
)
from kythera.testing.textbook import (
    Point as Point,
)
from kythera.testing.textbook import (
    exact_gradient as exact_gradient,
)
from kythera.testing.textbook import (
    exact_loss as exact_loss,
)
from kythera.testing.textbook import (
    noisy_sphere as noisy_sphere,
)
from kythera.testing.textbook import (
    rosenbrock as rosenbrock,
)
from kythera.testing.textbook import (
    sphere as sphere,
)
