"""Tollway runs AI agents the way a payment system runs transactions."""
