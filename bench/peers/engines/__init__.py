"""The engines that a worker can run; each module is imported in that engine's environment alone."""
