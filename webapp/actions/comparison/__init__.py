"""A comparison of runs; the page, the API, the CSV and a shared comparison are all made from here."""

from .table import Comparison, as_csv, compare, drawn, runs_of
from .view import COLUMNS, SCALES, SETTINGS, View
