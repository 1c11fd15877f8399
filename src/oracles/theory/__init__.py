"""Closed-form results of linear regression."""
