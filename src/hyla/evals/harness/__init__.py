"""lm-evaluation-harness's tasks through the engine, in this process."""
