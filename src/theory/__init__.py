"""Exact answers: closed forms that the laboratory must reproduce through the code path of the networks."""
