"""How one process spends its part of each route's limits: locally, fairly, and never more than it leases."""
