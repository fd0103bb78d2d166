"""What an answer is worth."""


def exact(answer: str, row: dict) -> float:
    """1 for the sum and nothing else, 0 for anything else."""
    return float(answer.strip() == row["sum"])
