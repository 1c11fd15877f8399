"""Two data sets in, one answer out: a pilot on small parts of the data, learning curves, costs, a decision, a page."""
