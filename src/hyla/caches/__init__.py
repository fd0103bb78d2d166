"""What a sequence keeps between steps: KV pages of 64 tokens, anchored states in slots, and the ledger of both."""

from hyla.caches.ledger import Ledger
from hyla.caches.pool import Cache
from hyla.caches.sequence import Checkpoint, Sequence

__all__ = ["Cache", "Checkpoint", "Ledger", "Sequence"]
