"""From overrides to cells, and the plan of what is missing."""
