"""A run in stages: planned and predicted from facts, done in the child process, measured, proven, told in the receipt.

`checks` refuses what cannot be done before it starts, `stages` lists the stages and does them, `receipt` tells.
"""

import sys


def load_plugins() -> None:
    """Imports every technique, importer, exporter, storage form and stage, when a program starts: an error stops it.

    Architectures too, which are torch's modules, in a process that has torch.
    """
    from webapp.engine.architectures import architectures
    from webapp.engine.exporters import exporters
    from webapp.engine.importers import importers
    from webapp.engine.techniques import techniques
    from webapp.engine.weights import forms

    from .stages import stages

    for found in (forms, importers, techniques, exporters, stages):
        found()
    if "torch" in sys.modules:
        architectures()
