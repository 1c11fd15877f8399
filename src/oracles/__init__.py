"""The laboratory against exact formulas: the linear lab (Monte Carlo, quadratics, boundary) beside theory/."""
