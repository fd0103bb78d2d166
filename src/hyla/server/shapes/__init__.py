"""Answers in the form of each API: whole ones, and the chunks of a stream."""
