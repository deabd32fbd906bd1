"""Models as llama.cpp has them: its names, its number formats, its metadata and its tokenizers.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is here imports gguf; whoever needs it imports it where
it is needed, in the child process.
"""
