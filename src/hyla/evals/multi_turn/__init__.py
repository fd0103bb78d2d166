"""Conversations with a chat model: what was said in turns before is asked for, through the engine."""
