"""Multiple Coulomb scattering: angles and displacements in one projected plane.

Two independent projections (x and y, transverse to the track) make the real deflection.
Equation numbers: Particle Data Group, Phys. Rev. D 110 (2024) 030001, section 34.3.

The logarithm of Highland's formula is not additive: applied to each step it makes the
result depend on the step length. Here it is taken once, for the whole path, and the
variance it scales is additive.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kythera.core.safe import safe_sqrt
from kythera.physics.kinematics import Real, velocity
from kythera.units import MeV, muon_mass

# Thickness [X0] that regularises the logarithm: far below the 1e-3 X0 from which
# Highland's fit holds (there it changes the angle by 0.004%), and large enough that the
# factor never falls below 0.47, where the bare one reaches zero at 4e-12 X0.
thinnest = 1e-6


def log_correction(total: Real, *, beta: Real = 1.0, charge: Real = 1.0) -> Array:
    """Highland's factor for the tails that a thick path draws into the Gaussian.

    1 + 0.038 ln(x/X0 z^2/beta^2), PDG Eq. 34.16, with x/X0 + 1e-6 for x/X0.

    Args:
        total: thickness of the whole path in radiation lengths, >= 0.
        beta: speed of the particle over that of light.
        charge: its charge in units of e.

    Returns:
        The factor on the angle, > 0.
    """
    return 1 + 0.038 * jnp.log((total + thinnest) * (charge / beta) ** 2)


def highland(
    thickness: Real,
    momentum: Real,
    *,
    beta: Real | None = None,
    mass: Real = muon_mass,
    charge: Real = 1.0,
) -> Array:
    """RMS of the projected scattering angle behind one homogeneous layer.

    theta0 = 13.6 MeV/(beta p) z sqrt(x/X0) (1 + 0.038 ln(x/X0 z^2/beta^2)),
    PDG Eq. 34.16 (V. L. Highland; G. R. Lynch and O. I. Dahl, Nucl. Instrum. Methods B
    58 (1991) 6): the central 98% of the angles within 11% for 1e-3 < x/X0 < 100.

    Args:
        thickness: x/X0, thickness in radiation lengths, >= 0.
        momentum: momentum [GeV], > 0.
        beta: speed over that of light; from momentum and mass unless given.
        mass: mass [GeV].
        charge: charge in units of e.

    Returns:
        theta0 [rad]; the derivative at zero thickness, infinite, is given as zero.
    """
    return safe_sqrt(
        layer_variances(
            thickness, momentum, total=thickness, beta=beta, mass=mass, charge=charge
        )
    )


def layer_variances(
    thickness: Real,
    momentum: Real,
    *,
    total: Real | None = None,
    beta: Real | None = None,
    mass: Real = muon_mass,
    charge: Real = 1.0,
) -> Array:
    """Variance of the projected angle that each layer of a path contributes.

    v_i = (13.6 MeV z/(beta_i p_i))^2 t_i F^2 with t_i = (x/X0)_i and F the factor of
    `log_correction` for the whole path: the sum is Highland's variance of the whole,
    however finely the path is cut.

    Args:
        thickness: t_i, shape (..., layers).
        momentum: momentum [GeV] in each layer, or one that broadcasts.
        total: thickness of the whole path in radiation lengths; the sum over the last
            axis unless given (give it when layers are treated one by one).
        beta: speed over that of light; from momentum and mass unless given.
        mass: mass [GeV].
        charge: charge in units of e.

    Returns:
        v_i [rad^2], shape (..., layers).
    """
    if total is None:
        total = jnp.sum(thickness, axis=-1, keepdims=True)
    if beta is None:
        beta = velocity(momentum, mass)
    factor = log_correction(total, beta=beta, charge=charge)
    strength = scattering_strength(momentum, beta=beta, mass=mass, charge=charge)
    return strength * factor**2 * thickness


def scattering_strength(
    momentum: Real,
    *,
    beta: Real | None = None,
    mass: Real = muon_mass,
    charge: Real = 1.0,
) -> Array:
    """Variance of the projected angle for each radiation length, without the logarithm.

    (13.6 MeV z / (beta p))^2, from PDG Eq. 34.16.

    Args:
        momentum: momentum [GeV], > 0.
        beta: speed over that of light; from momentum and mass unless given.
        mass: mass [GeV].
        charge: charge in units of e.

    Returns:
        rad^2 for each radiation length.
    """
    if beta is None:
        beta = velocity(momentum, mass)
    return jnp.asarray((13.6 * MeV * charge / (beta * momentum)) ** 2)


def exit_levers(to_exit: Real, length: Real) -> tuple[Array | Real, Array | Real]:
    """What a layer's angular variance counts for at the exit of the path.

    Scattering spread evenly in a layer of length l that ends d before the exit, small
    angles: <y theta> = v (d + l/2), <y^2> = v (d^2 + d l + l^2/3).

    Args:
        to_exit: d, in any unit of length.
        length: l, in the same.

    Returns:
        The factors on v: d + l/2 and d (d + l) + l^2/3, in that unit and its square.
    """
    return to_exit + length / 2, to_exit * (to_exit + length) + length**2 / 3


def moments_from_variances(
    lengths: Float[Array, "*batch layers"], variances: Float[Array, "*batch layers"]
) -> Float[Array, "*batch 2 2"]:
    """Covariance of (displacement, angle) at the exit of a path of scattering layers.

    <theta^2> = sum v_i, <y theta> and <y^2> with the factors of `exit_levers`. One slab:
    y_rms = l theta0/sqrt 3, and the correlation is +sqrt(3)/2 (PDG Eq. 34.18-34.21): a
    particle is displaced to the side to which it is deflected.

    Args:
        lengths: l_i [m], in the order of passage (gaps: layers of variance zero).
        variances: v_i [rad^2], from `layer_variances`.

    Returns:
        [[<y^2>, <y theta>], [<y theta>, <theta^2>]], in m and rad.
    """
    to_exit = jnp.flip(jnp.cumsum(jnp.flip(lengths, -1), -1), -1) - lengths
    levers = exit_levers(to_exit, lengths)
    angle = jnp.sum(variances, -1)
    cross, place = (jnp.sum(variances * lever, -1) for lever in levers)
    rows = [jnp.stack([place, cross], -1), jnp.stack([cross, angle], -1)]
    return jnp.stack(rows, -2)


def scattering_moments(
    lengths: Float[Array, "*batch layers"],
    radiation_lengths: Float[Array, "*batch layers"],
    momenta: Float[Array, "*batch layers"],
    *,
    mass: Real = muon_mass,
    charge: Real = 1.0,
) -> Float[Array, "*batch 2 2"]:
    """Covariance of (displacement, angle) of a particle behind a path of layers.

    `layer_variances` for the whole path, then `moments_from_variances`: independent of
    how a layer is cut.

    Args:
        lengths: path length in each layer [m], in the order of passage.
        radiation_lengths: X0 of each layer [m]; infinite for vacuum.
        momenta: momentum in each layer [GeV].
        mass: mass [GeV].
        charge: charge in units of e.

    Returns:
        The 2 x 2 covariance in one projection, in m and rad.
    """
    thickness = lengths / radiation_lengths
    variances = layer_variances(thickness, momenta, mass=mass, charge=charge)
    return moments_from_variances(lengths, variances)


def scatter_slab(
    normals: Float[Array, "*batch 2"], length: Real, theta0: Real
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Random displacement and deflection behind one slab, in one projection.

    y = l theta0 (z1/sqrt 12 + z2/2), theta = z2 theta0, PDG Eq. 34.22 and 34.23; their
    correlation is +sqrt(3)/2.

    Args:
        normals: two independent standard normal numbers (z1, z2) for each track.
        length: l [m].
        theta0: RMS angle [rad], from `highland`.

    Returns:
        The displacement [m] and the deflection [rad].
    """
    z1, z2 = normals[..., 0], normals[..., 1]
    return length * theta0 * (z1 / 12**0.5 + z2 / 2), z2 * theta0


def sample_moments(
    z1: Real, z2: Real, place: Real, cross: Real, angle: Real
) -> tuple[Array, Array]:
    """Random displacement and deflection with given second moments.

    Closed-form Cholesky factor, angle first: theta = s z2, y = (<y theta>/s) z2 +
    sqrt(<y^2> - <y theta>^2/s^2) z1, s^2 = <theta^2>. Where a variance is zero (vacuum)
    the values are zero and the derivatives finite.

    Args:
        z1: standard normal numbers.
        z2: standard normal numbers, independent of z1.
        place: <y^2> [m^2], as in `scattering_moments`; broadcasts with the numbers.
        cross: <y theta> [m].
        angle: <theta^2>.

    Returns:
        The displacement [m] and the deflection [rad].
    """
    scattered = angle > 0
    lever = jnp.where(scattered, cross / jnp.where(scattered, angle, 1.0), 0.0)
    # a rest below rounding is noise of the subtraction: its root would amplify it
    rest = place - lever * cross
    rest = jnp.where(rest > 4 * jnp.finfo(rest.dtype).eps * place, rest, 0.0)
    theta = safe_sqrt(angle) * z2
    return lever * theta + safe_sqrt(rest) * z1, theta
