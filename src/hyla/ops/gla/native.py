"""The CPU has no kernel for gated linear attention yet: its products are the library's (`ops.exact.batched`)."""

from hyla.ops.backends import has_no_kernel

unsupported = has_no_kernel
