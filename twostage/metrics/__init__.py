"""How good a reconstruction, a codebook and a generated set are. Importing a module here imports no metric library."""
