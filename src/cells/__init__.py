"""One cell: resolve it, tune its regimes, run it, write the folders of its runs."""
