"""The queue's decisions: who is served next, and how slots are shared. Pure: state, time and randomness are arguments."""
