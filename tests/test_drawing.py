"""Figures as plain dicts: geometry, JSON, panels."""

import json

import numpy as np
import pytest

from kythera import drawing


def corners(traces):
    mesh = traces[0]
    return np.array([mesh[axis] for axis in "xyz"]).T, mesh


def test_a_box_is_closed_and_faces_outwards():
    points, mesh = corners(drawing.box((1, 2, 3), (2, 4, 6)))
    np.testing.assert_allclose(points.min(0), [0, 0, 0])
    np.testing.assert_allclose(points.max(0), [2, 4, 6])
    faces = np.array([mesh[k] for k in "ijk"]).T
    a, b, c = (points[faces[:, k]] - [1, 2, 3] for k in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert abs(volume) == pytest.approx(48)
    assert len(np.unique(np.sort(faces, 1), axis=0)) == 12


def test_a_plane_is_tilted_about_its_own_axes():
    points, _ = corners(drawing.plane((0, 0, 1), (2, 4), tilt=(0.3, 0.2)))
    edges = {
        round(float(np.linalg.norm(p - q)), 3)
        for p in points
        for q in points
        if np.linalg.norm(p - q) > 1e-6
    }
    assert edges == {2, 4, round(float(np.hypot(2, 4)), 3)}
    flat = points - points.mean(0)
    normal = np.linalg.svd(flat)[2][-1]
    normal *= np.sign(normal[2])
    expected = [np.sin(0.2) * np.cos(0.3), -np.sin(0.3), np.cos(0.2) * np.cos(0.3)]
    np.testing.assert_allclose(normal, expected, atol=1e-5)


def test_everything_is_json():
    nan = float("nan")
    figure = drawing.figure(
        drawing.curve(np.arange(3), [1.0, nan, 2.0], [0.1, 0.1, nan], name="a"),
        drawing.points(np.arange(2), np.arange(2), stderr=np.ones(2)),
        drawing.bars(["a"], np.array([1.0]), [0.2]),
        drawing.heatmap(np.eye(2), unit="m"),
        drawing.rectangle((0, 1), (0, 2)),
        drawing.lines(np.zeros((2, 2, 2))),
        x="x (m)",
        equal=True,
    )
    text = json.dumps(figure, allow_nan=False)
    assert json.loads(text) == figure
    assert figure["layout"]["yaxis"]["scaleanchor"] == "x"


def test_a_band_leaves_out_what_is_unknown():
    band, line = drawing.curve([0, 1, 2], [1, 2, 3], [0.1, float("nan"), 0.3])
    assert band["x"] == [0, 2, 2, 0]
    assert band["y"] == pytest.approx([1.1, 3.3, 2.7, 0.9])
    assert line["x"] == [0, 1, 2]


def test_three_dimensions_make_a_scene():
    figure = drawing.figure(drawing.box((0, 0, 0), (1, 1, 1)), z="z (m)")
    assert figure["layout"]["scene"]["zaxis"]["title"]["text"] == "z (m)"
    assert "xaxis" not in figure["layout"]


def test_panels_have_axes_of_their_own():
    one = drawing.figure(drawing.curve([0, 1], [0, 1], name="a"), x="x (m)", equal=True)
    both = drawing.side_by_side({"left": one, "right": one}, caption="Two.")
    assert [t["xaxis"] for t in both["data"]] == ["x", "x2"]
    assert [t["showlegend"] for t in both["data"]] == [True, False]
    layout = both["layout"]
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    assert layout["yaxis2"]["scaleanchor"] == "x2"
    assert [a["text"] for a in layout["annotations"]] == ["left", "right"]


def test_a_band_has_no_markers_of_its_own():
    assert drawing.curve([0, 1], [1, 2], [0.1, 0.1])[0]["mode"] == "lines"


def test_a_logarithmic_map_shows_its_values():
    values = [[0.0, 1.0, float("nan")], [30.0, 250.0, 0.01]]
    [trace] = drawing.heatmap(values, unit="1/m", low=0.1, high=100, log=True)
    assert trace["z"][0] == [-1.0, 0.0, None]
    assert trace["z"][1] == pytest.approx([np.log10(30), np.log10(250), -1])
    assert (trace["zmin"], trace["zmax"]) == (-1, 2)
    assert trace["customdata"] == [[0.0, 1.0, None], [30.0, 250.0, 0.01]]
    assert trace["colorbar"]["title"]["text"] == "1/m"
    assert trace["colorbar"]["ticktext"] == ["0.1", "1", "10", "100"]
    assert trace["colorbar"]["tickvals"] == [-1, 0, 1, 2]
    [free] = drawing.heatmap(values, log=True)
    assert (free["zmin"], free["zmax"]) == pytest.approx((-2, np.log10(250)))
    [empty] = drawing.heatmap([[0.0]], log=True)
    assert empty["zmin"] < empty["zmax"]


def test_ticks_of_a_logarithmic_scale():
    assert drawing.log_ticks(0.3, 12) == [0.5, 1, 2, 5, 10]
    assert drawing.log_ticks(1, 1e5) == [1, 10, 100, 1000, 10_000, 100_000]


def test_panels_of_equal_scale_hang_below_their_names():
    one = drawing.figure(drawing.heatmap(np.eye(2)), equal=True)
    both = drawing.side_by_side({"true": one, "seen": one, "again": one}, columns=3)
    for number in ("", "2", "3"):
        axis = both["layout"][f"yaxis{number}"]
        assert axis["constraintoward"] == "top"
        assert axis["scaleanchor"] == f"x{number}"
    domains = [both["layout"][f"xaxis{n}"]["domain"] for n in ("", "2", "3")]
    assert [d[1] - d[0] for d in domains] == pytest.approx(
        [domains[0][1]] * 3, abs=1e-5
    )
    assert domains[2][1] == pytest.approx(1)


def test_colours_go_round():
    assert drawing.colour("start") == drawing.START
    assert drawing.colour(len(drawing.PALETTE)) == drawing.PALETTE[0]
    assert drawing.faded("#0072B2", 0.2) == "rgba(0,114,178,0.2)"
