"""Object condensation: the hits of one object gather around the one that speaks for it.

J. Kieseler, Object condensation: one-stage grid-free multi-object reconstruction in physics
detectors, graph, and image data, Eur. Phys. J. C 80 (2020) 886, arXiv:2002.03605. What other
codes of that name do differently is on the page "Reconstruction" of the documentation.

The truth of a hit is the number of its object, from 1 on; every number below 1 is noise. What
`find_objects` gives are no such numbers: it names hits, of which the first is 0.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.checks import check_count
from kythera.core.compilation import jit
from kythera.core.safe import safe_sqrt
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Bool, Float, Int, Key, Scalar
from kythera.physics.statistics.checks import known

# The charge arctanh^2 beta diverges at 1: from here on it is constant.
SURE = 1 - 1e-4


class Condensed(eqx.Module):
    """What a network says of each hit.

    Args:
        beta: how sure it is to speak for an object, in [0, 1], shape (event, hit).
        place: where it stands among the objects, (event, hit, places).
        payload: what it says of its object, (event, hit, payload).
        present: whether there is such a hit, (event, hit).
    """

    beta: Float[Array, "event hit"]
    place: Float[Array, "event hit places"]
    payload: Float[Array, "event hit payload"]
    present: Bool[Array, "event hit"]


class Terms(NamedTuple):
    """The parts of the loss of one event.

    Args:
        attraction: of hits to the condensation point of their object.
        repulsion: of all others from it.
        seeds: 1 - beta at the condensation points, mean over objects.
        noise: beta of what belongs to no object, its mean.
    """

    attraction: Scalar
    repulsion: Scalar
    seeds: Scalar
    noise: Scalar


def charge(beta: Array, least: float) -> Array:
    """q = arctanh^2(beta) + q_min (Eq. 1), constant for beta above 1 - 1e-4.

    Args:
        beta: in [0, 1].
        least: q_min, what every hit pulls with.
    """
    return jnp.arctanh(jnp.minimum(beta, SURE)) ** 2 + least


def condensation(
    beta: Float[Array, " hit"],
    place: Float[Array, "hit places"],
    object_of: Int[Array, " hit"],
    objects: int,
    *,
    present: Bool[Array, " hit"] | None = None,
    least_charge: float = 0.5,
    normalised: str = "hits",
    repulsion: str = "hinge",
) -> Terms:
    """The potential and beta terms of the loss of one event (Eqs. 1-9 of the paper).

    With a the hit of largest charge q of object k (of equal ones the first), M_jk = 1 where
    hit j belongs to k, and N hits, K objects, those without hits not counted:

        attraction = 1/N sum_j q_j sum_k M_jk q_a |x_j - x_a|^2
        repulsion  = 1/N sum_j q_j sum_k (1 - M_jk) q_a max(0, 1 - |x_j - x_a|)
        seeds      = 1/K sum_k (1 - beta_a)
        noise      = mean of beta over the hits that belong to nothing.

    Hits of no object are repelled by all, attracted by none. Derivatives are finite also
    where hits coincide and where beta is 1. All are 0 of an event without hits; memory is
    hits times objects.

    Args:
        beta: of each hit.
        place: of each hit.
        object_of: 1 to `objects`; noise below 1, such as 0 or -1. Larger numbers are refused;
            inside of `jit`, where nobody knows them, such hits count as not there.
        objects: the most objects that an event can have.
        present: which hits there are; by default all.
        least_charge: q_min.
        normalised: by the number of "hits", as above; or "objects": for each object its own
            mean over its hits, and over all that are not its own, then the mean over
            objects, so that objects with many hits do not count more.
        repulsion: "hinge", as above, or "gaussian", exp(-4 d^2), that reaches further.

    Raises:
        InputError: objects below 1, a hit of an object above `objects`, shapes that do not
            fit, or a word that is not known.
    """
    check_words(objects, normalised, repulsion)
    present = _there(beta, place, present)
    present = _numbered(object_of, objects, present)
    beta, place = jnp.where(present, beta, 0.0), jnp.where(present[:, None], place, 0.0)
    numbers = jnp.arange(1, objects + 1)
    member = (object_of[:, None] == numbers) & present[:, None]  # (hit, object)
    other = ~member & present[:, None]
    exists = jnp.any(member, 0)
    q = charge(beta, least_charge)
    at = jnp.argmax(jnp.where(member, q[:, None], -jnp.inf), 0)
    square = jnp.sum((place[:, None] - place[at]) ** 2, -1)
    if repulsion == "hinge":
        push = jnp.maximum(0.0, 1 - safe_sqrt(square))
    else:
        push = jnp.exp(-4 * square)
    strength = jnp.where(exists, q[at], 0.0) * q[:, None]
    pulled = jnp.sum(strength * jnp.where(member, square, 0.0), 0)
    pushed = jnp.sum(strength * jnp.where(other, push, 0.0), 0)
    count = jnp.maximum(jnp.sum(exists), 1)
    if normalised == "hits":
        own = others = jnp.maximum(jnp.sum(present), 1)
    else:
        own = count * jnp.maximum(jnp.sum(member, 0), 1)
        others = count * jnp.maximum(jnp.sum(other, 0), 1)
    noise = present & (object_of < 1)
    return Terms(
        jnp.sum(pulled / own),
        jnp.sum(pushed / others),
        jnp.sum(jnp.where(exists, 1 - beta[at], 0.0)) / count,
        jnp.sum(jnp.where(noise, beta, 0.0)) / jnp.maximum(jnp.sum(noise), 1),
    )


def payload_loss(
    beta: Float[Array, " hit"],
    loss: Float[Array, " hit"],
    object_of: Int[Array, " hit"],
    objects: int,
    *,
    present: Bool[Array, " hit"] | None = None,
    normalised: str = "objects",
) -> Scalar:
    """Mean of what the hits say wrongly of their objects, most from those that are sure.

    With xi_i = arctanh^2 beta_i, 0 for noise: sum_i L_i xi_i / sum_i xi_i over all hits
    (Eq. 10), or the mean over objects of that of their own hits (Eq. 11). 0 where no hit is
    sure of anything.

    Args:
        beta: of each hit.
        loss: L_i, of each hit.
        object_of: 1 to `objects`; noise below 1, such as 0 or -1. Larger numbers are refused;
            inside of `jit`, where nobody knows them, such hits count as not there.
        objects: the most objects that an event can have.
        present: which hits there are; by default all.
        normalised: over all "hits" (Eq. 10), or "objects" (Eq. 11).

    Raises:
        InputError: objects below 1, a hit of an object above `objects`, or a word that is
            not known.
    """
    check_words(objects, normalised)
    if present is None:
        present = jnp.ones(beta.shape, bool)
    present = _numbered(object_of, objects, present)
    counts = present & (object_of > 0)
    weight = jnp.where(counts, charge(jnp.where(present, beta, 0.0), 0.0), 0.0)
    loss = jnp.where(counts, loss, 0.0)
    if normalised == "hits":
        return _ratio(jnp.sum(weight * loss), jnp.sum(weight))
    member = (object_of[:, None] == jnp.arange(1, objects + 1)) & present[:, None]
    weight = jnp.where(member, weight[:, None], 0.0)
    means = _ratio(jnp.sum(weight * loss[:, None], 0), jnp.sum(weight, 0))
    return jnp.sum(means) / jnp.maximum(jnp.sum(jnp.any(member, 0)), 1)


def find_objects(
    beta: Float[Array, " hit"],
    place: Float[Array, "hit places"],
    *,
    present: Bool[Array, " hit"] | None = None,
    least_beta: float = 0.1,
    distance: float = 0.8,
) -> Int[Array, " hit"]:
    """Which hit speaks for each hit: its own number for the speakers, -1 for noise.

    Hits are taken in the order of beta as long as it is above the threshold. One that no
    earlier speaker has within the distance becomes a speaker, and all hits within the
    distance that are nobody's yet become its own (Section 2.5 of the paper). What is left
    is noise. It decides, and has no derivatives.

    Args:
        beta: of each hit.
        place: of each hit.
        present: which hits there are; by default all. The others are -1.
        least_beta: t_beta, about 0.1.
        distance: t_d, 0.1 to 1.

    Raises:
        InputError: shapes that do not fit, a threshold outside of [0, 1], or a distance that
            is not > 0.
    """
    _check_cuts(least_beta, distance)
    present = _there(beta, place, present)
    beta, place = jax.lax.stop_gradient((beta, place))

    def left(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] & (beta > least_beta))

    def take(state: tuple[Array, Array]) -> tuple[Array, Array]:
        free, speaker = state
        seed = jnp.argmax(jnp.where(free & (beta > least_beta), beta, -jnp.inf))
        square = jnp.sum((place - place[seed]) ** 2, -1)
        own = free & ((square < distance**2) | (jnp.arange(len(beta)) == seed))
        return free & ~own, jnp.where(own, seed, speaker)

    return jax.lax.while_loop(left, take, (present, jnp.full(beta.shape, -1)))[1]


class FindObjects(AbstractStage[Any, Condensed, Int[Array, "event hit"]]):
    """The objects of each event, by `find_objects`: for each hit who speaks for it.

    A decision: nothing behind it can be differentiated. Put it into the slot `inference`,
    behind a `GravNet`, whose loss looks at `trace.reco`.

    Args:
        least_beta: t_beta.
        distance: t_d.

    Raises:
        InputError: a threshold outside of [0, 1], or a distance that is not > 0.
    """

    references: ClassVar[tuple[str, ...]] = (
        "J. Kieseler, Object condensation: one-stage grid-free multi-object reconstruction "
        "in physics detectors, graph, and image data, Eur. Phys. J. C 80 (2020) 886, "
        "arXiv:2002.03605",
    )
    least_beta: float = 0.1
    distance: float = 0.8

    def __check_init__(self):
        """Refuse cuts that find nothing, or anything."""
        _check_cuts(self.least_beta, self.distance)

    def __call__(
        self, design: Any, x: Condensed, *, key: Key
    ) -> Int[Array, "event hit"]:
        """Shape (event, hit)."""
        return _found(self, x)


@jit
def _found(stage: FindObjects, x: Condensed) -> Array:
    cuts = {"least_beta": stage.least_beta, "distance": stage.distance}

    def event(beta: Array, place: Array, present: Array) -> Array:
        return find_objects(beta, place, present=present, **cuts)

    return jax.vmap(event)(x.beta, x.place, x.present)


def _ratio(above: Array, below: Array) -> Array:
    """Above / below, 0 where below is 0."""
    some = below > 0
    return jnp.where(some, above / jnp.where(some, below, 1.0), 0.0)


def _there(beta: Array, place: Array, present: Array | None) -> Array:
    """Which hits there are; refuse shapes that would be stretched to each other."""
    shapes = jnp.shape(beta), jnp.shape(place), jnp.shape(beta)
    if present is not None:
        shapes = *shapes[:2], jnp.shape(present)
    if (
        len(shapes[0]) != 1
        or len(shapes[1]) != 2
        or {s[:1] for s in shapes} != {shapes[0]}
    ):
        raise errors.InputError(
            "The hits of one event must have a beta of shape (hit,), a place of (hit, places) "
            f"and present of (hit,), but the shapes are {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]}. Reshape them, or take `jax.vmap` for more events."
        )
    return jnp.ones(shapes[0], bool) if present is None else jnp.asarray(present, bool)


def _numbered(object_of: Array, objects: int, present: Array) -> Array:
    """Which hits there are whose object can be."""
    check_objects(object_of, objects, present)
    return present & (object_of <= objects)


def check_objects(object_of: Any, objects: int, present: Any = True) -> None:
    """Refuse hits of more objects than there can be, where values are known.

    Args:
        object_of: of each hit, any shape.
        objects: the most that an event can have.
        present: which hits there are, of the same shape.

    Raises:
        InputError: a number above `objects`.
    """
    if not known(object_of, present):
        return
    largest = jnp.max(jnp.where(present, object_of, 0), initial=0)
    if largest > objects:
        raise errors.InputError(
            f"Numbers of objects must be at most `objects`, {objects}, but a hit belongs to "
            f"object {int(largest)}. Raise `objects`, or number those of each event from 1."
        )


def _check_cuts(least_beta: Any, distance: Any) -> None:
    if not known(least_beta, distance):
        return
    if not (0 <= least_beta <= 1 and distance > 0):
        raise errors.InputError(
            "`least_beta` must be in [0, 1] and `distance` > 0, but they are "
            f"{least_beta} and {distance}. Try 0.1 and 0.8."
        )


def check_words(objects: int, normalised: str, repulsion: str = "hinge") -> None:
    """Refuse options of the loss that cannot be.

    Args:
        objects: the most that an event can have.
        normalised: by "hits" or "objects".
        repulsion: "hinge" or "gaussian".

    Raises:
        InputError: objects below 1, or a word that is not known.
    """
    check_count("objects", objects, "Take the largest number in your sample")
    for name, word, words in (
        ("normalised", normalised, ("hits", "objects")),
        ("repulsion", repulsion, ("hinge", "gaussian")),
    ):
        if word not in words:
            raise errors.InputError(
                f"`{name}` must be one of {words}, but is {word!r}. "
                + errors.nearest(word, words)
            )
