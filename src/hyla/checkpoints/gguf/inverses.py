"""What the writers of GGUF files do to published tensors, undone. Functions on float32 arrays; no PyTorch."""

from __future__ import annotations

import numpy as np

from hyla.errors import CheckpointError


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of q or k from pairs (2i, 2i + 1) back to halves (i, i + d/2), within each head."""
    paired = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return paired.swapaxes(1, 2).reshape(rows.shape)


def untile(values: np.ndarray, axis: int, num_key_heads: int, ratio: int, head_dim: int) -> np.ndarray:
    """Value heads from the order [ratio][key head] back to [key head][ratio]."""
    shape = values.shape
    split = (*shape[:axis], ratio, num_key_heads, head_dim, *shape[axis + 1 :])
    return values.reshape(split).swapaxes(axis, axis + 1).reshape(shape)


def untile_after(values: np.ndarray, first: int, num_key_heads: int, ratio: int, head_dim: int) -> np.ndarray:
    """`untile` of the rows from `first` on."""
    return np.concatenate([values[:first], untile(values[first:], 0, num_key_heads, ratio, head_dim)])


def interleave_heads(stacked: np.ndarray, last: np.ndarray, num_heads: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Rows of several projections, one after another, and of one more -> by heads. sizes: a head's rows in each."""
    cuts = np.cumsum([num_heads * size for size in sizes])[:-1]
    parts = [part.reshape(num_heads, -1, part.shape[-1]) for part in (*np.split(stacked, cuts), last)]
    return np.concatenate(parts, axis=1).reshape(-1, stacked.shape[-1])


def minus_one(norm: np.ndarray) -> np.ndarray:
    """A norm's weight that was stored with one added."""
    return norm - np.float32(1)


def log_of_negative(decay: np.ndarray) -> np.ndarray:
    """A = -exp(A_log). Raises CheckpointError where A is not negative: then the file holds something else."""
    if not (decay < 0).all():
        raise CheckpointError(
            f"ssm_a holds {float(decay.max()):g}, and -exp(A_log) is negative; convert the model again"
        )
    return np.log(-decay)


def log_of_positive(decay: np.ndarray) -> np.ndarray:
    """A = exp(A_log). Raises CheckpointError where A is not positive."""
    if not (decay > 0).all():
        raise CheckpointError(
            f"ssm_a holds {float(decay.min()):g}, and exp(A_log) is positive; convert the model again"
        )
    return np.log(decay)


def join_latent(key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """k_b [H, latent, nope] and v_b [H, v, latent] -> kv_b_proj [H (nope + v), latent]."""
    whole = np.concatenate([key.transpose(0, 2, 1), value], axis=1)
    return whole.reshape(-1, whole.shape[-1])
