"""Pure functions on tensors, one folder for each operator. A row's result depends on its sequence's tokens only."""
