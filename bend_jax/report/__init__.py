"""What is read of a run: typed contents, tables and figures, and their pages."""
