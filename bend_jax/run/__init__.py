"""The experiment: from the command line to stages in a store, and the report."""
