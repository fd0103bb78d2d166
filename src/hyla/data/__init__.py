"""Text, conversations and tables as token stores: built once, mapped into memory, read in an order of seed and step."""
