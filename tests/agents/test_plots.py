from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from rpp_agents.plots import (
    INK,
    Picture,
    figure,
    grid,
    label_ends,
    learning_curve,
    legend,
    limits,
    listed,
    smooth,
    spread,
)
from rpp_env.errors import InvalidData, InvalidOption


def write(folder: Path, rewards: Any, *, every: int = 5) -> Path:
    folder.mkdir(parents=True)
    rows = [
        f"{i + 1},{(i + 1) * 100},{reward},{reward + 0.1 if (i + 1) % every == 0 else ''}"
        for i, reward in enumerate(rewards)
    ]
    (folder / "progress.csv").write_text("\n".join(["iteration,steps,reward,eval_reward", *rows]))
    return folder


def test_smoothing_is_centred_and_keeps_a_straight_line() -> None:
    line = np.linspace(0, 1, 50)
    np.testing.assert_allclose(smooth(line, 0.2), line)
    spike = np.zeros(51)
    spike[25] = 1
    smoothed = smooth(spike, 0.08)
    assert smoothed[22:29] == pytest.approx([0, *[1 / 5] * 5, 0], abs=1e-12)
    assert smoothed[[0, 50]].tolist() == [0, 0]
    assert smooth(np.ones(1)).tolist() == [1.0]


def test_one_run_and_several(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = [
        write(tmp_path / str(seed), np.linspace(0, 1, 40 + seed) + rng.normal(0, 0.1, 40 + seed))
        for seed in range(3)
    ]
    lines = {"random": 0.2, "fixed": 0.5}
    for runs, name in ((folders[:1], "one.png"), (folders, "three.svg")):
        path = learning_curve(runs, tmp_path / "plots" / name, label="MAPPO", lines=lines)
        assert path.stat().st_size > 5000
    assert (tmp_path / "plots" / "one.png").read_bytes()[:4] == b"\x89PNG"


def test_undrawable_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="at least one run"):
        learning_curve([], tmp_path / "x.png")
    with pytest.raises(InvalidData, match=r"progress\.csv"):
        learning_curve([tmp_path], tmp_path / "x.png")
    with pytest.raises(InvalidOption, match="no finished iteration"):
        learning_curve([write(tmp_path / "empty", [])], tmp_path / "x.png")


# ---- what all pictures share ----


def boxes(artists: Any) -> list[Any]:
    """Where texts are, without the lines that lead to them."""
    return [Text.get_window_extent(one) for one in artists]


def texts(drawn: Any) -> list[Any]:
    """Everything that is written in a figure, but for the numbers of ticks."""
    ticks = {
        id(label)
        for axes in drawn.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    found = [one for one in drawn.findobj(Text) if one.get_text().strip() and one.get_visible()]
    return [one for one in found if id(one) not in ticks]


def overlapping(drawn: Any) -> list[tuple[str, str]]:
    drawn.draw_without_rendering()
    written = texts(drawn)
    found = []
    for i, (one, box) in enumerate(zip(written, boxes(written), strict=True)):
        for other, theirs in zip(written[:i], boxes(written[:i]), strict=True):
            if box.shrunk(0.95, 0.8).overlaps(theirs.shrunk(0.95, 0.8)):
                found.append((one.get_text(), other.get_text()))
    return found


@pytest.mark.parametrize("count", [1, 4, 5, 11, 19])
def test_a_grid_names_its_axes_and_nothing_covers_another(count: int) -> None:
    drawn, panels = grid(count, 2.3, 1.75, xlabel="calls of the model", ylabel="NDCG@10")
    for i, axes in enumerate(panels):
        axes.plot([5000, 40_000], [0.3, 0.6])
        axes.set_title(f"method {i}", fontsize=8, loc="left")
    legend(drawn, {f"line {i} 0.123": {"color": INK} for i in range(6)}, 4)
    assert overlapping(drawn) == []
    named = [axes for axes in panels if axes.get_xlabel() == "calls of the model"]
    assert len(named) == (count - 1) % 4 + 1  # the lowest row
    ticked = [axes for axes in panels if axes.xaxis.get_major_ticks()[0].label1.get_visible()]
    assert len(ticked) == min(count, 4)  # the lowest of each column


@pytest.mark.parametrize("words", [1, 2, 4, 6])
def test_a_legend_is_no_wider_than_its_figure(words: int) -> None:
    drawn, _ = grid(1, 7.0, 2.0, xlabel="calls", ylabel="NDCG@10")
    entries = {f"{'best fixed ' * words}{i} 0.461": {"color": INK} for i in range(6)}
    legend(drawn, entries, 4)
    drawn.canvas.draw()
    (made,) = drawn.legends
    assert [text.get_text() for text in made.get_texts()] == list(entries)
    box = made.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn.bbox.width


def test_an_axis_begins_where_the_data_do() -> None:
    low, high = limits(0.8, 0.86, [0.85, 0.7, 0.23])
    assert 0.79 < low < 0.8
    assert 0.86 < high < 0.87
    low, high = limits(0.8, 0.86, [0.75, 0.9])  # near enough to be shown
    assert low < 0.75
    assert high > 0.9
    low, high = limits(0.5, 0.5)
    assert low < 0.5 < high


@pytest.mark.parametrize("seed", range(20))
def test_places_are_spread_as_little_as_need_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice([rng.random(), *rng.random(8)], 9)).tolist()
    moved = spread(places, 0.08, 0, 1)
    assert np.diff(moved).min() > 0.08 - 1e-9
    assert -1e-9 < moved[0] < moved[-1] < 1 + 1e-9
    assert np.abs(np.array(moved) - places).max() < 0.08 * 9
    far = [0.0, 0.5, 1.0]
    assert spread(far, 0.08, 0, 1) == far
    assert spread([], 0.08, 0, 1) == []


def test_names_stand_where_lines_end_and_not_on_each_other() -> None:
    drawn = figure(6, 4)
    axes = drawn.subplots()
    ends = [(0.5 + 0.001 * i, f"method {i}", INK) for i in range(10)] + [(0.9, "alone", INK)]
    for height, _, _ in ends:
        axes.plot([0, 1], [0.2, height])
    label_ends(axes, ends)
    assert overlapping(drawn) == []
    right = axes.get_window_extent().x1
    names = [one for one in texts(drawn) if one.get_text().startswith(("method", "alone"))]
    assert all(box.x0 > right for box in boxes(names))  # not on the curves
    heights = {one.get_text(): box.y0 for one, box in zip(names, boxes(names), strict=True)}
    assert sorted(heights, key=lambda name: heights[name]) == [name for _, name, _ in sorted(ends)]


def test_a_picture_has_alternative_text(tmp_path: Path) -> None:
    picture = Picture(tmp_path / "plots" / "a.png", f"Scores: {listed({'QMIX [1]': 0.25, 'b': 1})}")
    assert picture.markdown(tmp_path) == "![Scores: QMIX (1) 0.250; b 1.000](plots/a.png)"


def test_baselines_of_a_learning_curve_are_named_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(
        "rpp_agents.plots.save", lambda drawn, path, alt: kept.append(drawn) or Picture(path, alt)
    )
    run = write(tmp_path / "run", np.linspace(0.3, 0.6, 40))
    lines = {"best fixed prompt": 0.6, "observable reference": 0.605, "random prompt": 0.3}
    learning_curve([run], tmp_path / "x.png", label="MAPPO", lines=lines, ylabel="NDCG@10")
    (drawn,) = kept
    assert overlapping(drawn) == []
    (axes,) = drawn.axes
    assert axes.get_ylabel() == "NDCG@10"
    written = {one.get_text(): one for one in texts(drawn)}
    for name in ("best fixed prompt 0.600", "observable reference 0.605", "random prompt 0.300"):
        assert boxes([written[name]])[0].x0 > axes.get_window_extent().x1
