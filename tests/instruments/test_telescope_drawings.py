"""Pictures of the telescope: every plane where it is, on axes that stay."""

import json

import jax.numpy as jnp
import pytest

from kythera.instruments import telescope
from kythera.instruments.telescope import Telescope


@pytest.fixture(scope="module")
def problem():
    return telescope.problem()


def planes(z):
    return Telescope(jnp.array(z), jnp.array(0.001))


def test_a_sketch_shows_every_plane(problem):
    drawn = problem.sketch(planes([0.0, 0.25, 1.0]))
    json.dumps(drawn, allow_nan=False)
    assert drawn["side"]["data"][0]["x"] == [0, 0.25, 1]
    plates = [t for t in drawn["space"]["data"] if t["type"] == "mesh3d"]
    middle = [(min(t["x"]) + max(t["x"])) / 2 for t in plates]
    assert middle == pytest.approx([0, 0.25, 1], abs=1e-5)


def test_axes_do_not_move_with_the_planes(problem):
    drawn = [problem.sketch(planes(z)) for z in ([0.0, 0.1], [0.9, 1.0])]
    sides = [figures["side"]["layout"] for figures in drawn]
    assert sides[0] == sides[1]
    scenes = [figures["space"]["layout"]["scene"] for figures in drawn]
    assert scenes[0] == scenes[1]
    for name in ("xaxis", "yaxis", "zaxis"):
        assert len(scenes[0][name]["range"]) == 2
        assert scenes[0][name]["title"]["text"].endswith("(m)")


def test_before_and_after_have_rows_of_their_own(problem):
    designs = {"start": planes([0.3, 0.4]), "best": planes([0.0, 1.0])}
    [figure] = problem.draw(problem, designs, None).values()
    assert [set(t["y"]) for t in figure["data"]] == [{"start"}, {"best"}]
    assert figure["layout"]["yaxis"]["showticklabels"]
