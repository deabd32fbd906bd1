"""Charts: results in, Plotly figure out. Pure: no Flask, no database, no torch; plain dicts and lists only.

A "run" here is `{"id", "name", "checkpoint": {"id", "name"}, "dataset": {"id", "name"} | None, "baseline", "result",
"prunable_sparsity"?}`, where `baseline` and `result` are what a run keeps (or None while it has none); beside them what
it may be coloured by or drawn along: `"settings"?, "seconds"?, "techniques"?, "tags"?, "study"?, "series"?, "line"?`.
Colours of text, paper and grid are left to the page (static/charts.js), which follows its light or dark theme.
"""

from .bars import size_bars, sparsity_bars, time_ratios
from .budget import LOSS_TITLES, LOSS_UNITS, budget_front, predicted_against_measured
from .confusion import confusion_matrix
from .curves import curve_rows, quantities, stage_curve
from .layers import per_layer_sparsity
from .parallel import PARALLEL_RUNS, Dimension, parallel_coordinates
from .points import (
    ABSOLUTE_METRICS,
    AXES,
    axis_title,
    front_runs,
    knee_run,
    metric_names,
    metric_of,
    pareto_front,
    reading,
    runs_on_front,
)
from .storage import bytes_by_storage
from .studies import study_runs
from .tradeoff import COLOURED, SERIES, Sides, category, tradeoff
from .traffic import latency_over_time, latency_shares, requests_over_time
from .treemap import weights_treemap
