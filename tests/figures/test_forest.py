"""Forest plots: which estimates are drawn, where, and which are grey."""

from ovenet_core.figures import forest_plot
from ovenet_core.study import Claim
from ovenet_core.study.statistics import Estimate


def claim(id_: str, estimate: Estimate, metric: str = "miou", comparison: str = "") -> Claim:
    return Claim(id_, f"claim {id_}", "", "gain", metric=metric, estimate=estimate, comparison=comparison)


def test_estimates_of_the_metric_are_drawn_where_they_are():
    claims = [
        claim("1", Estimate(1.0, -0.5, 2.0, 3)),
        claim("2", Estimate(0.5, 0.1, 0.9, 1)),
        claim("3", Estimate()),
        claim("5a", Estimate(1.0, 0.5, 1.5, 3), metric="offsets"),
    ]
    figure = forest_plot(
        {"claims": claims, "parts": [claim("fusion", Estimate(1, 0, 2, 3), comparison="S_f minus S_i")]}
    )
    ax, parts = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 claim 1", "2 claim 2"]
    assert [label.get_text() for label in parts.get_yticklabels()] == ["$S_f$ minus $S_i$"]
    first, _, second, _ = ax.lines[:4]
    assert list(first.get_xdata()) == [-0.5, 2.0] and list(second.get_xdata()) == [0.1, 0.9]
    assert first.get_color() != second.get_color()  # too few seeds
