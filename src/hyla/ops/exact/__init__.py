"""The only matrix products, sums and non-linearities: a row's bits never depend on other rows."""
