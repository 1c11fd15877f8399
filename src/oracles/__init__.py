"""Comparison with exact formulas: the linear lab (Monte Carlo, quadratics, boundary) and theory/."""
