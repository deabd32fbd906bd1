"""A run in stages: planned and predicted from facts, done in the child process, measured, proven, told in the receipt.

`checks` refuses what cannot be done before it starts, `plan` lists the stages, `stages` does them, `receipt` tells.
"""
