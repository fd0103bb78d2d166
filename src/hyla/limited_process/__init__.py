"""Work that may hang, crash or fill the memory, done by a process of its own. No PyTorch.

`outside` is for whoever has the work done, `inside` for the module that does it, `line` is what goes between them.
"""
