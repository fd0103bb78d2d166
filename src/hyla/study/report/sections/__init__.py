"""The parts of a report, each a function from findings to Markdown; "" where there is nothing to say."""
