"""Programs: a network as a list of steps on tensors, which is data and can be read from a stranger's file.

A step names an operator of a fixed list (`operators`) or one of the network's layers; nothing in it is evaluated,
imported or unpickled. `module` runs the steps, `serialized` makes them of what torch.export.save wrote, and `lifting`
finds the layers in them.
"""
