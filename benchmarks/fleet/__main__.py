"""`python -m benchmarks.fleet [PLOT.svg]`: compare policies for the choice of a worker, in half a minute."""

from __future__ import annotations

import sys

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.fleet.comparison import SPEEDS, compare, table
from benchmarks.fleet.simulation import Scene


def main() -> None:
    """Four workers of different speeds behind three gateways."""
    results = compare(Scene(SPEEDS, gateways=3, requests=4000, per_second=0.0))
    sys.stdout.write(table(results) + "\n")
    if len(sys.argv) > 1:
        mpl.rcParams["svg.hashsalt"] = "tokenmill"
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, by_load in results.items():
            axes.plot(
                [load * 100 for load in by_load], [one.first_token_p99 for one in by_load.values()], "o-", label=name
            )
        axes.set(yscale="log", xlabel="load, % of capacity", ylabel="first token, 99th percentile, s")
        axes.set_title("Workers of speeds 1:1:2:4 behind three gateways")
        axes.legend()
        figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
