"""A copy of the results in MLflow: folders of results, outbox, records, client and bulk writer."""
