"""Who is computed when: the queue and its limits, the plan of a step, and what the prefix cache saves."""
