"""One script a stage: build a table, train, publish, and the pocket pool."""
