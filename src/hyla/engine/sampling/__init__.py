"""From a row of logits to a token: penalties, bans, grammars, thinking, filters and keyed noise."""
