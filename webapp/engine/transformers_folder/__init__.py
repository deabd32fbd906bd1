"""A folder that stock `from_pretrained` loads, in one zip: integers packed as compressed-tensors has them.

https://github.com/vllm-project/compressed-tensors. What is here imports that library where it is used.
"""
