"""One file for each published format, found by its name (`models.formats.registry`)."""
