"""Where an engine runs: on a thread, or in a process of its own, behind one handle."""
