"""Results as one picture: every plot of every section side by side."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.results import Plot, Results

INCHES = (5.0, 3.6)  # of one plot
mpl.rcParams["svg.hashsalt"] = "tokenmill"  # the same results make the same file


def draw(results: Results, path: Path) -> None:
    """Write all plots of `results` to an SVG file; nothing if there are none."""
    plots = [plot for section in results.sections.values() for plot in section.plots]
    if not plots:
        return
    figure = Figure(figsize=(INCHES[0] * len(plots), INCHES[1]), layout="constrained")
    for place, plot in enumerate(plots, start=1):
        axes = figure.add_subplot(1, len(plots), place)
        _draw_lines(plot, axes)
    figure.savefig(path, metadata={"Date": None})


def _draw_lines(plot: Plot, axes: Axes) -> None:
    for name, points in plot.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({x for points in plot.lines.values() for x, _ in points}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
