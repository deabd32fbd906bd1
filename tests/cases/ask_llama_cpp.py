"""Run by a test in a process of its own: llama.cpp loads a GGUF file and answers one request of its server."""

import json
import sys
import urllib.request

import xllamacpp

path, endpoint, body = sys.argv[1:]
given = xllamacpp.CommonParams()
given.model.path, given.n_ctx, given.n_parallel, given.warmup = path, 256, 1, False
given.cpuparams.n_threads = 1
server = xllamacpp.Server(given)
asked = urllib.request.Request(server.listening_address + endpoint, body.encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(asked) as answer:
    print(json.dumps(json.load(answer)))
