"""The API's part about runs, model versions and rounds. See `annotator.api`."""
