"""What requests may hold. Names that are not in a schema are refused."""
