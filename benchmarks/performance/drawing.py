"""Drawing: charts as SVG, readable on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.performance.charts import Lines, Stacks
from benchmarks.performance.statistics import BARE, DIRECT, OURS

#: Four and a half times as bright, or as dark, as either background.
_INK = "#7a7a7a"
#: Told apart by those who see no red or no green too.
_COLOURS = {
    OURS: "#d55e00",
    BARE: "#8c8c8c",
    DIRECT: "#b8a000",
    "smg": "#2f8fd8",
    "agentic-api": "#00a378",
    "litellm": "#cc79a7",
}
#: The same run gives the same file.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "branchline",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlesize": 11,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(charts: Sequence[Lines | Stacks], path: Path) -> None:
    """Draw charts side by side into an SVG file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * max(len(charts), 1.5), 3.6), layout="constrained")
        for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
            axes.set_title(chart.title)
            axes.set_ylabel(chart.y)
            if isinstance(chart, Lines):
                _draw_lines(axes, chart)
            else:
                _draw_stacks(axes, chart)
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _draw_lines(axes: Axes, chart: Lines) -> None:
    axes.set_xscale("log")
    axes.set_yscale("linear" if chart.linear else "log")
    axes.set_xlabel(chart.x)
    for line in chart.lines:
        xs = [point.x for point in line.points]
        colour, width = _COLOURS.get(line.target, _INK), 2.4 if line.target == OURS else 1.4
        axes.plot(xs, [point.y.median for point in line.points], "o-", color=colour, lw=width, ms=4, label=line.target)
        least, most = ([getattr(point.y, end) for point in line.points] for end in ("least", "most"))
        axes.fill_between(xs, least, most, color=colour, alpha=0.15, lw=0)
    if chart.linear:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, color=_INK, alpha=0.25, lw=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())


def _draw_stacks(axes: Axes, chart: Stacks) -> None:
    at, ticks = 0.0, []
    for stacks in chart.groups.values():
        ticks.append(at + (len(stacks) - 1) / 2)
        for stack in stacks:
            colour = _COLOURS.get(stack.target, _INK)
            first = stack.target not in axes.get_legend_handles_labels()[1]
            axes.bar(at, stack.proxy, 0.85, color=colour, label=stack.target if first else None)
            axes.bar(at, stack.store, 0.85, bottom=stack.proxy, color=colour, alpha=0.5)
            at += 1
        at += 1
    axes.set_xticks(ticks, list(chart.groups))
    axes.grid(visible=True, axis="y", color=_INK, alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
