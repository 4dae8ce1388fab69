"""Cosmic muons that cross a box: drawn from a flux model, or read from the user's file."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import random
from kythera.core.types import Array, Float, Key
from kythera.physics.kinematics import momentum_from_energy
from kythera.physics.muon_flux import Flux, FluxSampler, check_model, guan
from kythera.units import GeV, deg


class Muons(NamedTuple):
    """Straight lines r(z) = (x, y) + (slope_x, slope_y) (z - z_top), each of shape (n,).

    Args:
        x, y: where the line crosses the plane of the box's upper face, m.
        slope_x, slope_y: dx/dz and dy/dz.
        momentum: GeV.
    """

    x: Float[Array, " n"]
    y: Float[Array, " n"]
    slope_x: Float[Array, " n"]
    slope_y: Float[Array, " n"]
    momentum: Float[Array, " n"]


@dataclasses.dataclass(frozen=True)
class _BoxFlux:
    """A flux times the horizontal shadow of a box, averaged over azimuth, over its top area.

    shadow / (X Y) = 1 + (2 / pi) (1 / X + 1 / Y) H tan(theta).
    """

    flux: Flux
    size: tuple[float, float, float]

    def __call__(self, energy: Any, cos_theta: Any) -> Any:
        x, y, h = self.size
        tangent = (1 / cos_theta**2 - 1) ** 0.5
        shadow = 1 + 2 / math.pi * (1 / x + 1 / y) * h * tangent
        return self.flux(energy, cos_theta) * shadow


class BoxMuons(eqx.Module):
    """Muons of a flux model that cross a box; no others are drawn.

    The lines that hit a box of X x Y x H cross the plane of its upper face in a zonogon: the
    face itself (they enter through it) and one parallelogram for each pair of sides, of
    areas X Y, X H tan(theta) |sin(phi)|, Y H tan(theta) |cos(phi)|. So the zenith angle is
    drawn from the flux times the mean of the sum, then one of the three, the azimuth from
    its own density, and the point uniformly: exact, and nothing is thrown away.

    Args:
        size: (X, Y, H) of the box, m.
        flux: of `kythera.physics.muon_flux`; `shukla` wants theta_max <= 65 degrees.
        energy_min, energy_max: total energy, GeV.
        theta_max: zenith angle, rad.
    """

    sampler: FluxSampler
    size: tuple[float, float, float] = eqx.field(static=True)

    def __init__(
        self,
        size: tuple[float, float, float],
        flux: Flux = guan,
        *,
        energy_min: float = 0.5 * GeV,
        energy_max: float = 500 * GeV,
        theta_max: float = 70 * deg,
    ):
        """See the class; `shukla` beyond its range warns (PhysicsWarning)."""
        self.size = (float(size[0]), float(size[1]), float(size[2]))
        # the sampler does not know the flux in the product
        check_model(flux, energy_max, theta_max)
        self.sampler = FluxSampler(
            _BoxFlux(flux, self.size),
            energy_min=energy_min,
            energy_max=energy_max,
            theta_max=theta_max,
        )

    @property
    def rate(self) -> float:
        """Muons that cross the box, 1/s."""
        return self.sampler.rate * self.size[0] * self.size[1]

    def __call__(self, n: int, *, key: Key) -> Muons:
        """Draw n muons."""
        to_flux, to_rest = jax.random.split(key)
        energy, cosine, _ = self.sampler(n, key=to_flux)
        tangent = jnp.sqrt(jnp.maximum(1 / cosine**2 - 1, 0))
        face, turn, flip, along, down = random.uniform(to_rest, (5, n))
        length, breadth, height = self.size
        # share of each parallelogram, averaged over azimuth, over X Y
        by_y = 2 / math.pi * height / breadth * tangent  # through a face y = +- Y/2
        by_x = 2 / math.pi * height / length * tangent
        pick = face * (1 + by_y + by_x)
        through_top, through_y = pick < 1, (pick >= 1) & (pick < 1 + by_y)
        sign = jnp.where(flip < 0.5, 1.0, -1.0)
        # azimuths with density ~ 1, |sin|, |cos|
        from_sine = sign * jnp.arccos(jnp.clip(1 - 2 * turn, -1, 1))
        from_cosine = jnp.arcsin(jnp.clip(2 * turn - 1, -1, 1))
        from_cosine = from_cosine + jnp.where(flip < 0.5, 0.0, math.pi)
        phi = jnp.where(
            through_top,
            2 * math.pi * turn,
            jnp.where(through_y, from_sine, from_cosine),
        )
        slope_x, slope_y = tangent * jnp.cos(phi), tangent * jnp.sin(phi)
        # a point of the face, or of an edge moved by part of the way down
        shift = jnp.where(through_top, 0.0, down * height)
        edge_x, edge_y = (along - 0.5) * length, (along - 0.5) * breadth
        x = jnp.where(through_top | through_y, edge_x, jnp.sign(slope_x) * length / 2)
        inner_y = jnp.where(through_top, (down - 0.5) * breadth, edge_y)
        y = jnp.where(through_y, jnp.sign(slope_y) * breadth / 2, inner_y)
        return Muons(
            x + slope_x * shift,
            y + slope_y * shift,
            slope_x,
            slope_y,
            momentum_from_energy(energy),
        )


COLUMNS = ("x", "y", "z", "px", "py", "pz")


class FileMuons(eqx.Module):
    """The user's own muons, from a file: each draw takes a random one that hits the box.

    Columns (npz, Parquet, or a ROOT tree): x, y, z in m, a point of the track in the box's
    coordinates (its centre is the origin, z up); px, py, pz in GeV, pz < 0. An optional
    `exposure` (s, one number in npz, a constant column elsewhere) is the time for which the
    file stands.

    Args:
        path: *.npz, *.parquet or *.root.
        size: (X, Y, H) of the box, m; muons that miss it are left out.
        tree: name of the ROOT tree; by default the only one.
    """

    muons: Muons
    exposure: float = eqx.field(static=True)
    size: tuple[float, float, float] = eqx.field(static=True)

    def __init__(
        self,
        path: str | Path,
        size: tuple[float, float, float],
        tree: str | None = None,
    ):
        """Read and check the file.

        Raises:
            InputError: missing columns, unequal lengths, numbers that are not finite,
                muons that do not go down or are too slow, none that hits the box, an
                exposure that is not constant and > 0, or a file that cannot be read.
            UnsupportedError: the package that reads the format is not installed.
        """
        table = read_columns(path, COLUMNS, optional=("exposure",), tree=tree)
        position = np.stack([table[k] for k in COLUMNS[:3]])
        momentum = np.stack([table[k] for k in COLUMNS[3:]])
        total = np.sqrt((momentum**2).sum(0))
        for law, bad in (
            ("pz < 0 (muons travel down)", momentum[2] >= 0),
            ("a momentum above 0, below 1e6 GeV", (total <= 0) | (total > 1e6)),
        ):
            if bad.any():
                row = int(np.argmax(bad))
                raise errors.InputError(
                    f"Every muon of '{path}' needs {law}, but row {row} has "
                    f"(px, py, pz) = {momentum[:, row].tolist()} GeV. Leave it out."
                )
        self.size = (float(size[0]), float(size[1]), float(size[2]))
        slope = momentum[:2] / momentum[2]
        top = position[:2] + slope * (self.size[2] / 2 - position[2])
        hit = _crosses(top, slope, self.size)
        if not hit.any():
            raise errors.InputError(
                f"None of the {hit.size} muons of '{path}' crosses the box of "
                f"{self.size} m around the origin. Check the units (m) and the origin."
            )
        arrays = (top[0], top[1], slope[0], slope[1], total)
        self.muons = Muons(*(jnp.asarray(a[hit], float) for a in arrays))
        self.exposure = math.nan
        if "exposure" in table:
            given = np.ravel(table["exposure"])
            if not (given[0] > 0 and np.all(given == given[0])):
                raise errors.InputError(
                    f"`exposure` of '{path}' must be one time > 0, in s, the same in "
                    f"every row, but goes from {given.min():g} to {given.max():g} s. "
                    "Mend it, or leave it out."
                )
            self.exposure = float(given[0])

    @property
    def rate(self) -> float:
        """Muons that cross the box, 1/s; nan where the file gives no exposure."""
        return self.muons.x.shape[0] / self.exposure

    def __call__(self, n: int, *, key: Key) -> Muons:
        """Draw n of them, with replacement."""
        index = jax.random.randint(key, (n,), 0, self.muons.x.shape[0])
        return Muons(*(v[index] for v in self.muons))


class FixedMuons(eqx.Module):
    """Muons of one momentum from straight above, or up to an angle: for tests and slabs.

    Args:
        size: (X, Y, H) of the box, m; points are uniform over its upper face.
        momentum: GeV.
        theta_max: directions are uniform in solid angle up to it, rad.
    """

    size: tuple[float, float, float] = eqx.field(static=True)
    momentum: float = 5 * GeV
    theta_max: float = 0.0

    def __check_init__(self):
        """Refuse muons that stand still or do not go down."""
        if not 0 < self.momentum < math.inf:
            raise errors.InputError(
                f"`momentum` of muons must be finite and > 0, but is {self.momentum} GeV. "
                "Mend it."
            )
        if not 0 <= self.theta_max < math.pi / 2:
            raise errors.InputError(
                "`theta_max` must lie in [0, pi/2) rad, so that muons go down, but is "
                f"{self.theta_max}. Write degrees as `60 * deg`."
            )

    @property
    def rate(self) -> float:
        """Unknown: these muons stand for no time."""
        return math.nan

    def __call__(self, n: int, *, key: Key) -> Muons:
        """Draw n muons."""
        u = random.uniform(key, (4, n))
        cosine = 1 - u[0] * (1 - jnp.cos(self.theta_max))
        tangent = jnp.sqrt(jnp.maximum(1 / cosine**2 - 1, 0))
        phi = 2 * math.pi * u[1]
        return Muons(
            (u[2] - 0.5) * self.size[0],
            (u[3] - 0.5) * self.size[1],
            tangent * jnp.cos(phi),
            tangent * jnp.sin(phi),
            jnp.full((n,), self.momentum),
        )


def _crosses(
    top: np.ndarray, slope: np.ndarray, size: tuple[float, float, float]
) -> np.ndarray:
    """Whether lines through `top` (2, n) in the upper plane cross the box, shape (n,)."""
    first, last = np.zeros(top.shape[1]), np.full(top.shape[1], size[2])
    for axis in (0, 1):  # depths at which the line is between two opposite sides
        half = size[axis] / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            near = (top[axis] - half) / slope[axis]
            far = (top[axis] + half) / slope[axis]
        parallel = slope[axis] == 0
        near = np.where(parallel, -np.inf, near)
        far = np.where(parallel, np.inf, far)
        outside = parallel & (np.abs(top[axis]) > half)
        first = np.maximum(first, np.minimum(near, far))
        last = np.where(outside, -1.0, np.minimum(last, np.maximum(near, far)))
    return first <= last


def read_columns(
    path: str | Path,
    required: tuple[str, ...],
    *,
    optional: tuple[str, ...] = (),
    tree: str | None = None,
) -> dict[str, np.ndarray]:
    """Named columns of an npz, Parquet or ROOT file as float64 arrays of equal length.

    Args:
        path: the file; its ending tells the format.
        required: columns that must be there.
        optional: columns that are read where they are there.
        tree: of a ROOT file; by default the only one.

    Raises:
        InputError: no such file, an unknown ending, missing columns, a file cut short,
            unequal lengths, or numbers that are not finite.
        UnsupportedError: the package that reads the format is not installed.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".root": _read_root}
    if path.suffix not in readers:
        raise errors.InputError(
            f"'{path}' must end in one of {', '.join(readers)}. Convert it."
        )
    if not path.is_file():
        raise errors.InputError(f"There is no file '{path}'. Check the path.")
    try:
        table = readers[path.suffix](path, tree)
    except errors.KytheraError:
        raise
    except ImportError as error:
        extra = path.suffix[1:]
        raise errors.UnsupportedError(
            f"Reading '{path}' needs a package that is not installed ({error}). Run: "
            f"pip install 'kythera[{extra}]'."
        ) from error
    except Exception as error:  # readers raise what their libraries raise
        raise errors.InputError(
            f"'{path}' cannot be read as {path.suffix[1:]} ({type(error).__name__}: "
            f"{error}). It may be cut short; write it again."
        ) from error
    missing = [name for name in required if name not in table]
    if missing:
        raise errors.InputError(
            f"'{path}' must have the columns {', '.join(required)}, but lacks "
            f"{', '.join(missing)}; it has {', '.join(sorted(table)) or 'none'}. "
            "Rename or add them."
        )
    found = {
        name: np.asarray(table[name], np.float64)
        for name in (*required, *optional)
        if name in table
    }
    lengths = {name: found[name].shape for name in required}
    for name, shape in lengths.items():
        if len(shape) != 1:
            raise errors.InputError(
                f"Column '{name}' of '{path}' must be one row of numbers, but has the "
                f"shape {shape}. Flatten it."
            )
    if len(set(lengths.values())) > 1:
        raise errors.InputError(
            f"All columns of '{path}' must have one length, but have {lengths}. "
            "The file may be cut short; write it again."
        )
    for name, values in found.items():
        if values.size == 0 or not np.all(np.isfinite(values)):
            where = int(np.argmax(~np.isfinite(values))) if values.size else 0
            raise errors.InputError(
                f"Column '{name}' of '{path}' must hold finite numbers, but entry "
                f"{where} is {values.ravel()[where] if values.size else 'missing'}. "
                "Leave such rows out."
            )
    return found


def _read_npz(path: Path, tree: str | None) -> dict[str, Any]:
    # opened here: NumPy leaves a broken file open
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_parquet(path: Path, tree: str | None) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _read_root(path: Path, tree: str | None) -> dict[str, Any]:
    import uproot

    with uproot.open(path) as file:  # type: ignore[attr-defined]
        kinds = file.classnames(cycle=False)  # type: ignore[attr-defined]
        trees = [k for k, kind in kinds.items() if kind in ("TTree", "ROOT::RNTuple")]
        name = tree or (trees[0] if len(trees) == 1 else None)
        if name not in trees:
            raise errors.InputError(
                f"'{path}' holds the trees {trees}; name one of them with `tree=`."
            )
        return file[name].arrays(library="np")  # type: ignore[attr-defined]
