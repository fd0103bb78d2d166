"""The CPU has no kernel for the mixture of experts yet: its products are the library's (`ops.exact.rows`)."""

from hyla.ops.backends import has_no_kernel

unsupported = has_no_kernel
