"""What to choose: what each option of each layer saves and is expected to cost, and budgets solved on that.

Facts, fits and budgets are plain data and numpy, which the web process reads too; what looks at a model imports torch.
"""
