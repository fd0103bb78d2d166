"""Reinforcement learning: rollouts by the engine, updates by the trainer, one arithmetic for both."""
