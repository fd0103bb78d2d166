"""What a model's text means: reasoning, text, and calls of tools, read as it streams."""

from hyla.answers.protocol import Delta, ReasoningDelta, TextDelta, ToolDelta

__all__ = ["Delta", "ReasoningDelta", "TextDelta", "ToolDelta"]
