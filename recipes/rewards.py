"""What an answer is worth, for rl.toml."""


def exact(answer: str, row: dict) -> float:
    """1 for the solution of the task and nothing else, 0 for anything else."""
    return float(answer.strip() == row["solution"].strip())
