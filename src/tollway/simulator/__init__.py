"""The simulated provider: vendors' wires, laws of time and length, true limits, faults, a ledger."""
