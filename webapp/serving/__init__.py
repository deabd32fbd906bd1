"""One model behind HTTP: a process of its own that loads an ONNX file and answers in the protocols that clients know.

It imports onnxruntime, numpy and tokenizers, and neither torch nor Flask nor a database, so that it starts in about a
second and its memory is the model's. It listens on a unix socket; who may ask, and what is wanted running, is decided
by others (`webapp.web.views.serve`, `webapp.jobs.deployer`).
"""

ABOUT = "about.json"  # {"name", "model": the file, "architecture", "classes", "preprocessing", "threads"}
UNLOADABLE = 3  # exit status; the last line on stderr is the sentence
RUNTIME = "onnxruntime"  # exporters whose files it runs say so in `served_by`
