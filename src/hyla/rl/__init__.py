"""Reinforcement learning by our own engine and trainer."""
