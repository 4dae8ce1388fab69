"""A problem: a space, a pipeline and an objective. All that an optimisation is about."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.objective import AbstractObjective, Score, _merge
from kythera.core.pipeline import Pipeline
from kythera.core.space import Choice, Integer, Space
from kythera.core.stage import AbstractPathwiseSimulator, declared
from kythera.core.types import Scalar, Vector

D = TypeVar("D")

CHUNK_PRIMARIES = 1 << 18  # what one chunk simulates at most, unless the problem says


class Problem(eqx.Module, Generic[D]):
    """theta* = argmin over a space of objective(pipeline), Eq. 7 of arXiv:2203.13818.

    Args:
        space: the design space; its template is the start.
        pipeline: what is simulated during the search (it may be softened, so that
            gradients exist).
        objective: what is minimised.
        events: rows of one evaluation.
        weights: of the named terms of the loss, 1 where not named.
        chunk: rows that are simulated at a time inside `jit`; by default as many as make
            about 260,000 primaries. Memory grows with the chunk, not with the events.
        hard_pipeline: the detector as built, for reports; by default the pipeline.
        hard_objective: what is reported of it; by default the objective.
        draw: (problem, designs by name, key) -> figures by name, for reports; a figure
            is a dict in plotly's JSON format.
        sketch: design -> figures by name: the geometry alone of one design, as built, in
            milliseconds and without simulation, so that it can be drawn at any trial. Its
            axes have fixed ranges, so that a slider over the trials does not jump.
        name: for tables and files.
    """

    space: Space[D]
    pipeline: Pipeline
    objective: AbstractObjective
    events: int = eqx.field(static=True, default=1000)
    weights: dict[str, float] = eqx.field(default_factory=dict)
    chunk: int | None = eqx.field(static=True, default=None)
    hard_pipeline: Pipeline | None = None
    hard_objective: AbstractObjective | None = None
    draw: Callable[..., dict[str, dict]] | None = eqx.field(static=True, default=None)
    sketch: Callable[[D], dict[str, dict]] | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="problem")
    is_hard: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse counts below one."""
        for field, value in (("events", self.events), ("chunk", self.chunk)):
            if value is not None and (int(value) != value or value < 1):
                raise errors.InputError(
                    f"`{field}` must be a whole number >= 1, but is {value}. "
                    "Give the number of rows."
                )

    @property
    def chunks(self) -> tuple[int, int]:
        """Number of chunks of one evaluation, and rows in each."""
        primaries = max(1, self.pipeline.source.primaries)
        most = self.chunk or max(1, CHUNK_PRIMARIES // primaries)
        count = -(-self.events // most)
        return count, -(-self.events // count)

    @property
    def price(self) -> int:
        """Primaries that one evaluation simulates: the currency of every comparison.

        Templates of a nuisance parameter are two more simulations.
        """
        count, size = self.chunks
        times = 1 + 2 * len(self.objective.templates())
        return times * count * size * self.pipeline.source.primaries

    @property
    def width(self) -> int:
        """Designs that are evaluated at a time in one process.

        Small simulations gain from batching; the number of workers must not change results.
        """
        if self.pipeline.is_host:
            return self.pipeline.batch
        count, size = self.chunks
        if count > 1:
            return 1
        most = (1 << 15) // (size * self.pipeline.source.primaries)
        return min(max(most, 1), 64)

    @property
    def softened(self) -> bool:
        """Whether the search sees another detector than the report."""
        relaxed = any(isinstance(d, Integer | Choice) for d in self.space.domains)
        other = self.hard_pipeline is not None or self.hard_objective is not None
        return not self.is_hard and (other or (relaxed and not self.pipeline.is_host))

    def check(self) -> None:
        """Refuse what no estimator can measure, before anything is simulated.

        Raises:
            UnsupportedError: nuisance parameters without derivatives of the simulator.
            InputError: a weight is given for a term that the objective does not have.
        """
        for problem in (self, self.hard()) if self.softened else (self,):
            problem._check_nuisances()
            # Elsewhere tracing finds it, which comes before the first event.
            late = problem.pipeline.is_host or problem.objective is not self.objective
            if self.weights and late:
                problem._check_weights()

    def _check_nuisances(self) -> None:
        """Without templates, tallies are differentiated through the simulator."""
        steps, simulator = self.objective.templates(), self.pipeline.simulator
        every = self.objective.nuisances()
        for path, step in steps.items():
            if path not in every or not step > 0:
                raise errors.InputError(
                    "Templates belong to a nuisance parameter and have a step > 0, but "
                    f"'{path}' has the step {step} and the nuisance parameters are "
                    f"{list(every)}. Mend `templates` of the objective."
                )
        nuisances = [path for path in every if path not in steps]
        smooth = isinstance(simulator, AbstractPathwiseSimulator)
        if nuisances and (self.pipeline.is_host or not smooth):
            name = f"`{type(simulator).__name__}`" + " (as built)" * self.is_hard
            cause = "a stage runs outside" if smooth else f"{name} is no such simulator"
            raise errors.UnsupportedError(
                f"The nuisance parameters {nuisances} need an "
                "`AbstractPathwiseSimulator` and all stages inside JAX, but "
                f"{cause}. Use a simulator that can be differentiated, an objective that "
                "takes them from `templates`, or one without nuisance parameters."
            )

    def _check_weights(self) -> None:
        names = self.term_names()
        if names is not None:
            self.weight(dict.fromkeys(names))

    def term_names(self) -> list[str] | None:
        """Names of the terms of the loss; None where only a simulation can tell.

        Terms have names before they have values: zeros for what runs outside JAX.
        """
        pipeline = declared(self.pipeline)
        design, key = self.design(self.space.start), jax.random.key(0)

        def terms() -> dict[str, Scalar]:
            rows = self.objective.tally(design, pipeline(design, 2, key=key))
            mean = jax.tree.map(lambda v: jnp.mean(jnp.asarray(v, float), 0), rows)
            return self.score(design, mean).loss

        try:
            return list(terms() if self.pipeline.is_host else jax.eval_shape(terms))
        except Exception:  # a user's code may need more: the first evaluation will tell
            return None

    def design(self, u: Vector) -> D:
        """The design at a point of the cube (hard outside JAX and for reports)."""
        return self.space.decode(u, hard=self.is_hard or self.pipeline.is_host)

    def hard(self) -> "Problem[D]":
        """The problem as it is reported: hard designs, hard detector, hard objective."""
        return self.replace(
            pipeline=self.hard_pipeline or self.pipeline,
            objective=self.hard_objective or self.objective,
            hard_pipeline=None,
            hard_objective=None,
            is_hard=True,
        )

    def replace(self, **fields: Any) -> "Problem[D]":
        """The same problem with some of its fields replaced.

        Raises:
            InputError: no such field.
        """
        old = {k: getattr(self, k) for k in self.__dataclass_fields__}
        for field in fields:
            if field not in old:
                raise errors.InputError(
                    f"A problem has no field {field!r}. {errors.nearest(field, old)}"
                )
        return Problem(**(old | fields))

    def score(self, design: D, tally: Any) -> Score:
        """The objective's score, its constraints among the slacks."""
        score = self.objective.score(design, tally)
        slack = _merge([score.slack, self.objective.constraints(design)])
        return Score(
            {k: jnp.asarray(v, float) for k, v in score.loss.items()},
            {k: jnp.asarray(v, float) for k, v in slack.items()},
        )

    def weight(self, terms: Mapping[str, Any]) -> np.ndarray:
        """Weights of the named terms, in their order, shape (terms,).

        Raises:
            InputError: a weight is given for a term that the objective does not have.
        """
        for name in self.weights:
            if name not in terms:
                raise errors.InputError(
                    f"There is no term {name!r} to be weighted. "
                    f"{errors.nearest(name, terms)}"
                )
        return np.array([float(self.weights.get(name, 1.0)) for name in terms])

    def total(self, loss: Mapping[str, Scalar]) -> Scalar:
        """Weighted sum of the named terms."""
        values = jnp.stack([jnp.asarray(v, float) for v in loss.values()])
        return jnp.sum(jnp.asarray(self.weight(loss), values.dtype) * values)

    def references(self) -> list[str]:
        """References of all parts of the problem, each once, in their order."""
        found: dict[str, None] = {}

        def visit(node: Any) -> bool:
            found.update(dict.fromkeys(getattr(node, "references", ()) or ()))
            return False

        jax.tree.leaves(
            (self.pipeline, self.objective, self.hard_pipeline, self.hard_objective),
            is_leaf=visit,
        )
        return list(found)
