"""The Hugging Face hub: a model comes in by its name, a result goes out.

All that opens a connection to it runs in a child process of its own (`child`), which the workers start where the
setting `hub_url` names a hub. The engine switches the hub off for its own process; this package, which no other process
imports, switches it on again.
"""

import os

import webapp.engine

assert webapp.engine
os.environ |= {  # read once, when huggingface_hub is imported
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # of whoever runs Pare: the one in the settings is meant
    "HF_HUB_DISABLE_XET": "1",  # plain HTTP, whose bytes are counted as they come
}
