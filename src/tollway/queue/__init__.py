"""The queue's decisions: who is served next, how slots are shared. Pure: state, time and randomness are arguments."""
