"""The benchmark: scenarios that start Tollway as a user would, load it over HTTP, and account for all of it."""
